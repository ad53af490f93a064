"""Measure the shipped models and bicubic, and rewrite the results in README.md, docs/results.md and docs/results.json.

With alphas, which is the default, docs/images/perception_distortion.png is drawn anew as well.
The rows of other people's models are quoted; ours and bicubic's are measured on every call, in fp32.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from matplotlib.figure import Figure

from esrgan.benchmark import Model, evaluate
from esrgan.cli import run
from esrgan.errors import EsrganError
from esrgan.files import replacing, write_text
from esrgan.generator import Generator
from esrgan.interpolate import interpolate
from esrgan.library import Entry, entries
from esrgan.lpips import LPIPS
from esrgan.model_file import load_model
from esrgan.pairs import find_pairs
from esrgan.stand_ins import Bicubic
from esrgan.upscaler import Upscaler

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
MORE = ROOT / "models"
Sets = dict[str, Path]
"""Name of a benchmark set -> its folder."""
JPEG = 75
"""Quality of the JPEG files that LR pictures come from in a table of its own."""
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
QUOTED = (
    (
        "RRDB-PSNR, 16.7 M, DF2K (quoted: the ESRGAN paper's 32.73 row)",
        "PSNR",
        {"Set5": "32.73/0.9011", "Set14": "28.99/0.7917", "BSD100": "27.85/0.7455"},
    ),
    (
        "ESRGAN, 16.7 M (quoted: two re-scores that agree, sources not kept)",
        "GAN",
        {"Set5": "30.44/0.8525/0.075", "Set14": "26.28/0.6994/0.133", "BSD100": "25.33/0.6534/0.161"},
    ),
)
"""At x4: name, kind, scores by set."""
Measured = tuple[str, str, dict[str, Any]]
"""What it is called, its kind, its report."""

app = App(help=__doc__)


@app.default
def results(
    *, data: Annotated[list[Path], Parameter(consume_multiple=True)], lpips: Path | None = None, alphas: bool = True
) -> None:
    """Score every shipped model, and those in models/, on DATA.

    Args:
        data: Benchmark folders.
        lpips: LPIPS-Alex weights.
        alphas: Also measure blends of every pair of a PSNR and a GAN model.
    """
    network = LPIPS(lpips)
    shipped = [entry for entry in entries() if entry.shipped]
    shipped += [Entry(path.stem, path, shipped=False) for path in sorted(MORE.glob("*.safetensors"))]
    scales = sorted({entry.header().config.scale for entry in shipped}, key=lambda scale: (scale != 4, scale))
    measured = {scale: _measure(shipped, scale, _having(data, scale), network) for scale in scales}
    gans = [entry for entry in shipped if entry.header().provenance.get("stage") == "gan"]
    through_jpeg = _measure(gans, 4, _having(data, 4), network, jpeg=JPEG)
    curves = _curves(shipped, data, network) if alphas else {}

    tables = {scale: _table(rows, QUOTED if scale == 4 else ()) for scale, rows in measured.items()}
    _fill(ROOT / "README.md", "results", tables[4])
    _fill(PAGE, "results", "\n\n".join(f"### x{scale}\n\n{table}" for scale, table in tables.items()))
    _fill(PAGE, "defects", _defects(measured[4]))
    _fill(PAGE, "jpeg", _table(through_jpeg, ()))
    if alphas:
        _fill(PAGE, "alpha", "\n\n".join(f"`{name}`\n\n{_alpha_table(curve)}" for name, curve in curves.items()))
        _draw(curves, ROOT / "docs" / "images" / "perception_distortion.png")
    reports = [_means(report) for rows in (*measured.values(), through_jpeg) for *_, report in rows]
    write_text(ROOT / "docs" / "results.json", json.dumps(reports, indent=1) + "\n")


def _curves(shipped: list[Entry], data: list[Path], lpips: LPIPS) -> dict[str, list[dict[str, Any]]]:
    """The curve of every pair of a PSNR and a GAN model, by the latter's name."""
    paths = {entry.name: entry.path for entry in shipped}
    pairs = {
        gan: (psnr, path)
        for gan, path in paths.items()
        if "gan" in gan and (psnr := paths.get(gan.replace("gan", "psnr")))
    }
    return {name: _curve(*pair, data, lpips) for name, pair in pairs.items()}


def _having(data: list[Path], scale: int) -> Sets:
    """The benchmark folders with pictures for ``scale``; of the others HR pictures, whose LR is then made here."""
    found = {}
    for folder in data:
        try:
            find_pairs(folder, scale)
            found[folder.name] = folder
        except EsrganError:
            others = sorted(folder.glob("x*/HR"))
            if not others or (folder / f"x{scale}").is_dir():
                raise
            found[f"{folder.name}, LR made here"] = others[-1]
    return found


def _measure(shipped: list[Entry], scale: int, data: Sets, lpips: LPIPS, jpeg: int | None = None) -> list[Measured]:
    rows: list[Measured] = [("bicubic (measured)", "-", _score(Bicubic(scale), data, "bicubic", lpips, jpeg))]
    for entry in shipped:
        header = entry.header()
        if header.config.scale == scale:
            model = load_model(entry.path)
            parameters = sum(p.numel() for p in model.parameters()) / 1e6
            title = f"**{entry.name}**, {parameters:.1f} M (measured)"
            kind = header.provenance.get("stage", "?").upper()
            rows.append((title, kind, _score(_exact(model), data, entry.name, lpips, jpeg)))
    return rows


def _exact(model: Generator) -> Upscaler:
    """In the arithmetic that scores are the same in everywhere."""
    return Upscaler(model, precision="fp32")


def _score(model: Model, data: Sets, name: str, lpips: LPIPS, jpeg: int | None = None) -> dict[str, Any]:
    found = evaluate(model, list(data.values()), name=name, lpips=lpips, jpeg=jpeg)
    if found.errors:
        raise EsrganError(f"nothing was written: {'; '.join(found.errors)}")
    report = found.to_dict()
    for row, title in zip(report["datasets"], data, strict=True):
        row["name"] = title
    return report


def _means(report: dict[str, Any]) -> dict[str, Any]:
    """A report without its pictures, which ``esrgan test --json`` gives."""
    sets = [{name: value for name, value in row.items() if name != "images"} for row in report["datasets"]]
    return report | {"datasets": sets}


def _table(rows: list[Measured], quoted: tuple[tuple[str, str, dict[str, str]], ...]) -> str:
    sets = [row["name"] for row in rows[0][2]["datasets"]]
    lines = [f"| PSNR-Y / SSIM-Y / LPIPS | kind | {' | '.join(sets)} |", "|" + " --- |" * (len(sets) + 2)]
    for name, kind, report in rows:
        cells = [f"{row['psnr_y']:.2f} / {row['ssim_y']:.4f} / {row['lpips']:.3f}" for row in report["datasets"]]
        lines.append(f"| {name} | {kind} | {' | '.join(cells)} |")
    for name, kind, scores in quoted:
        lines.append(f"| {name} | {kind} | {' | '.join(scores.get(each, '-').replace('/', ' / ') for each in sets)} |")
    return "\n".join(lines)


def _defects(rows: list[Measured]) -> str:
    """What LPIPS hardly sees, as means over each set's pictures."""
    names = ("grid2", "grid4", "unevenness", "overshoot", "colour_shift")
    lines = ["| model | set | " + " | ".join(names) + " |", "|" + " --- |" * (len(names) + 2)]
    for title, _, report in rows:
        for row in report["datasets"]:
            known = [[image[name] for image in row["images"] if image[name] is not None] for name in names]
            means = [sum(values) / max(1, len(values)) for values in known]  # too small for a measure: it has no part
            lines.append(f"| {title} | {row['name']} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    return "\n".join(lines)


def _curve(psnr: Path, gan: Path, data: list[Path], lpips: LPIPS) -> list[dict[str, Any]]:
    """Scores of the blends of a pair of models, alpha from 0 to 1; of `lite` at x4 on all sets, else on the first."""
    models = load_model(psnr), load_model(gan)
    scale = models[0].config.scale
    sets = _having(data if scale == 4 and "lite" in gan.name else data[:1], scale)
    blends = ((alpha, interpolate(*models, alpha)) for alpha in ALPHAS)
    return [{"alpha": a, "sets": _score(_exact(model), sets, gan.stem, lpips)["datasets"]} for a, model in blends]


def _alpha_table(curve: list[dict[str, Any]]) -> str:
    sets = [row["name"] for row in curve[0]["sets"]]
    lines = [f"| alpha | {' | '.join(f'{name}: PSNR-Y, LPIPS' for name in sets)} |", "|" + " --- |" * (len(sets) + 1)]
    for point in curve:
        cells = [f"{row['psnr_y']:.2f}, {row['lpips']:.3f}" for row in point["sets"]]
        lines.append(f"| {point['alpha']:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _draw(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """LPIPS over PSNR-Y, a line for every pair and set."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        for i, row in enumerate(curve[0]["sets"]):
            points = [(point["sets"][i]["psnr_y"], point["sets"][i]["lpips"]) for point in curve]
            axes.plot(*zip(*points, strict=True), marker="o", label=f"{name}, {row['name']}")
    axes.set(xlabel="PSNR-Y (dB), more is closer", ylabel="LPIPS, less looks closer", title="alpha from 1 (left) to 0")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")


def _fill(page: Path, part: str, content: str) -> None:
    """Put ``content`` between the two comments of ``page`` that name the part."""
    begin, end = f"<!-- {part}: begin (scripts/results.py) -->", f"<!-- {part}: end -->"
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise EsrganError(f"{page} lacks the line {begin} or {end}; put both where the {part} belong")
    before, after = text.split(begin)[0], text.split(end)[-1]
    write_text(page, f"{before}{begin}\n{content}\n{end}{after}")


if __name__ == "__main__":
    sys.exit(run(app, sys.argv[1:]))
