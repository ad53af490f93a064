"""Score a trained model and write it, in fp16 and with its whole provenance, into the package."""

import csv
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from esrgan.benchmark import evaluate
from esrgan.files import write_text
from esrgan.library import SHIPPED
from esrgan.metrics import LPIPS
from esrgan.model_file import load_model, read_header, save_model
from esrgan.upscaler import Upscaler

app = App(help=__doc__)


@app.default
def ship(
    model: Path,
    *,
    name: str,
    data: Annotated[list[Path], Parameter(consume_multiple=True)],
    manifest: Path,
    lpips: Path | None = None,
    notes: str = "",
) -> None:
    """Score MODEL and put it into the package as NAME.

    Args:
        model: The model file of a run folder.
        name: Its name in the package, such as lite_x4_gan.
        data: Benchmark folders to score it on.
        manifest: Table (TSV) of the training pictures: file, origin, licence, ..., split.
        lpips: LPIPS-Alex weights.
        notes: Anything to add, such as the machine and the hours.
    """
    about = read_header(model).provenance
    generator = load_model(model)
    out = SHIPPED / f"{name}.safetensors"
    about |= {"name": name, "licence": "MIT", "commit": _commit(), "data": about["data"] | _licences(manifest)}
    if notes:
        about["notes"] = notes
    save_model(generator, out, provenance=about, half=True)  # scored as shipped, rounded to fp16
    report = evaluate(Upscaler(out, precision="fp32"), data, lpips=LPIPS(lpips)).to_dict()
    about["scores"] = {
        "protocol": report["protocol"],
        "datasets": [{k: v for k, v in row.items() if not isinstance(v, list)} for row in report["datasets"]],
    }
    save_model(generator, out, provenance=about, half=True)
    _save_curve(model.parent / "log.jsonl", SHIPPED / "curves" / f"{name}.jsonl")
    print(json.dumps(about, indent=2))


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def _licences(manifest: Path) -> dict[str, object]:
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["split"] == "train"]
    origins = {row["origin"].split("#")[0].split(":")[1].split("@")[0] for row in rows}
    return {"licences": dict(Counter(row["licence"] for row in rows).most_common()), "origins": sorted(origins)}


def _save_curve(log: Path, path: Path) -> None:
    """Keep step, PSNR-Y and LPIPS of every validation."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    curve = [
        {"step": row["step"], **{k: row["validation"].get(k) for k in ("psnr_y", "lpips")}}
        for row in rows
        if "validation" in row
    ]
    write_text(path, "".join(json.dumps(row) + "\n" for row in curve))


if __name__ == "__main__":
    app()
