"""Measure the shipped models and bicubic, and rewrite the results in README.md and docs/results.md.

The rows of other people's models are quoted, with their source; ours and bicubic's are measured on every call.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from esrgan.benchmark import Bicubic, evaluate
from esrgan.files import write_text
from esrgan.library import entries
from esrgan.metrics import LPIPS
from esrgan.model_file import load_model
from esrgan.upscaler import Upscaler

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: begin (scripts/results.py) -->", "<!-- results: end -->"
QUOTED = (
    (
        "RRDB-PSNR, 16.7 M, DF2K (quoted: the ESRGAN paper's 32.73 row)",
        "PSNR",
        ("32.73/0.9011", "28.99/0.7917", "27.85/0.7455"),
    ),
    (
        "ESRGAN, 16.7 M (quoted: two public re-scores)",
        "GAN",
        ("30.44/0.8525/0.075", "26.28/0.6994/0.133", "25.33/0.6534/0.161"),
    ),
)

app = App(help=__doc__)


@app.default
def results(
    *, data: Annotated[list[Path], Parameter(consume_multiple=True)], lpips: Path | None = None, scale: int = 4
) -> None:
    """Score every shipped model of SCALE on DATA.

    Args:
        data: Benchmark folders.
        lpips: LPIPS-Alex weights.
        scale: Which models.
    """
    network = LPIPS(lpips)
    reports = [("bicubic (measured)", "-", evaluate(Bicubic(scale), data, lpips=network).to_dict())]
    for entry in entries():
        header = entry.header()
        if entry.shipped and header.config.scale == scale:
            model = load_model(entry.path)
            report = evaluate(Upscaler(model), data, name=entry.name, lpips=network).to_dict()
            parameters = sum(p.numel() for p in model.parameters()) / 1e6
            kind = header.provenance.get("stage", "?").upper()
            reports.append((f"**{entry.name}**, {parameters:.1f} M (measured)", kind, report))
    table = _table(reports)
    print(table)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    write_text(
        readme, re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", f"{BEGIN}\n{table}\n{END}", text, flags=re.DOTALL)
    )
    write_text(ROOT / "docs" / "results.json", json.dumps([report for *_, report in reports], indent=1))


def _table(reports: list[tuple[str, str, dict[str, Any]]]) -> str:
    sets = [row["name"] for row in reports[0][2]["datasets"]]
    lines = [f"| PSNR-Y / SSIM-Y / LPIPS | kind | {' | '.join(sets)} |", "|" + " --- |" * (len(sets) + 2)]
    for name, kind, report in reports:
        cells = [f"{row['psnr_y']:.2f} / {row['ssim_y']:.4f} / {row['lpips']:.3f}" for row in report["datasets"]]
        lines.append(f"| {name} | {kind} | {' | '.join(cells)} |")
    for name, kind, cells in QUOTED:
        lines.append(f"| {name} | {kind} | {' | '.join(cell.replace('/', ' / ') for cell in cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    app()
