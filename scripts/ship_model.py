"""Score a trained model and write it, in fp16 and with its whole provenance, into the package."""

import csv
import json
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter

from esrgan.benchmark import evaluate
from esrgan.cli import run
from esrgan.config import Config, PretrainConfig, TrainConfig
from esrgan.config_file import FREE, flattened, plain, toml_value
from esrgan.errors import EsrganError
from esrgan.files import replacing, write_text
from esrgan.generator import Generator
from esrgan.images import find_images
from esrgan.library import SHIPPED, SIZES
from esrgan.lpips import LPIPS
from esrgan.model_file import load_model, read_header, save_model
from esrgan.pairs import PairFiles, read_pair
from esrgan.upscaler import Upscaler

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
CENTRED_ON = 24
"""Training pictures that a model's colours are centred on."""
CORNER = 32
"""LR pixels."""

app = App(help=__doc__)


@app.default
def ship(  # noqa: PLR0913 - each is an option
    model: Path,
    *,
    name: str,
    data: Annotated[list[Path], Parameter(consume_multiple=True)],
    images: Annotated[list[Path], Parameter(consume_multiple=True)],
    manifest: Path,
    lpips: Path | None = None,
    notes: str = "",
    folder: Path = SHIPPED,
) -> None:
    """Score MODEL and put it into the package as NAME.

    Args:
        model: The model file of a run folder.
        name: Its name in the package, such as lite_x4_gan.
        data: Benchmark folders to score it on.
        images: The training pictures, to take its constant error of colour out.
        manifest: Table (TSV) of the training pictures: at least origin, licence and split.
        lpips: LPIPS-Alex weights.
        notes: Anything to add, such as the machine and the hours.
        folder: Where it goes; models/ for those that the package has no room for.
    """
    measure = LPIPS(lpips)
    about = read_header(model).provenance
    generator = _rounded(load_model(model))
    out = folder.resolve() / f"{name}.safetensors"
    about |= {"name": name, "licence": "MIT", "commit": _commit(), "data": about["data"] | _licences(manifest)}
    pictures = find_images(images)
    about["centred"] = {"pictures": min(CENTRED_ON, len(pictures)), "levels": _centre(generator, pictures)}
    if notes:
        about["notes"] = notes
    path = folder / "curves" / f"{name}.jsonl"
    goes_on = about["stage"] == "gan" and about["init"].get("name") == name  # other trainings are held against it all
    curve = _curve(model.parent / "log.jsonl", _rows(path) if goes_on else [])
    with replacing(out) as temporary:
        save_model(generator, temporary, provenance=about, half=True)  # scored as shipped, rounded to fp16
        about["scores"] = _scores(temporary, data, measure)
        save_model(generator, temporary, provenance=about, half=True)
    write_text(path, "".join(json.dumps(row) + "\n" for row in curve))
    millions = sum(parameter.numel() for parameter in generator.parameters()) / 1e6
    write_text(ROOT / "docs" / "models" / f"{name}.md", _card(about, out, curve, millions))


def _scores(path: Path, data: list[Path], lpips: LPIPS) -> dict[str, Any]:
    """What the header says of scores: the protocol and the means."""
    found = evaluate(Upscaler(path, precision="fp32"), data, lpips=lpips)
    if found.errors:
        raise EsrganError(f"not shipped: {'; '.join(found.errors)}")
    report = found.to_dict()
    means = [{k: v for k, v in row.items() if not isinstance(v, list)} for row in report["datasets"]]
    return {"protocol": report["protocol"], "datasets": means}


def _rounded(generator: Generator) -> Generator:
    """With weights that bf16 holds, as they were when it was trained: so every arithmetic uses the same ones."""
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.copy_(parameter.bfloat16())
    return generator


def _centre(generator: Generator, photos: list[Path]) -> list[float]:
    """Take the mean error of each colour channel out of the last bias; gives it in 8-bit levels.

    L1 finds medians, and training in bf16 makes up for roundings that fp32 does not have. The mean is over training
    pictures and of both arithmetics, so that both score alike; what bf16 does is seen in a corner of each picture, as
    CPUs without it need minutes for a whole one.
    """
    exact, rounded = (Upscaler(generator, device="cpu", engine="torch", precision=name) for name in ("fp32", "bf16"))
    errors = []
    for path in photos[:: max(1, len(photos) // CENTRED_ON)][:CENTRED_ON]:
        pair = read_pair(PairFiles(path, None), generator.scale)
        corner = pair.lr[None, :, :CORNER, :CORNER]
        error = exact(pair.lr[None]) - pair.hr
        errors.append(error.mean((0, 2, 3)) + (rounded(corner) - exact(corner)).mean((0, 2, 3)) / 2)
    mean = torch.stack(errors).mean(0)
    with torch.no_grad():
        generator.get_parameter("conv_last.bias").sub_(mean)
    return [round(255 * value, 3) for value in mean.tolist()]


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def _licences(manifest: Path) -> dict[str, object]:
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["split"] == "train"]
    odd = [row["origin"] for row in rows if ":" not in row["origin"]]
    if odd:
        raise EsrganError(f"{manifest}: the origin {odd[0]!r} is not of the form HOST:OWNER/NAME@COMMIT")
    origins = {row["origin"].split("#")[0].split(":")[1].split("@")[0] for row in rows}
    return {"licences": dict(Counter(row["licence"] for row in rows).most_common()), "origins": sorted(origins)}


def _curve(log: Path, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bicubic's PSNR-Y and LPIPS and those of every validation; steps count on from those of the runs ``before``."""
    rows, done = _rows(log), before[-1]["step"] if before else 0
    kept = ("psnr_y", "lpips")
    base = [{"step": 0, **{k: r["bicubic"].get(k) for k in kept}, "bicubic": True} for r in rows if "bicubic" in r]
    new = [
        {"step": done + r["step"], **{k: r["validation"].get(k) for k in kept}}
        for r in rows
        if "validation" in r and not (before and r["step"] == 0)
    ]
    return (before or base) + new


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _commands(about: dict[str, Any]) -> list[str]:
    """What to run, one after the other, to train a model that was begun from others as its header says."""
    before = about.get("init")
    earlier = _commands(before) if before else []
    recipe, shape = about["recipe"], about
    while "generator.scale" not in shape["recipe"]:  # stage 2 takes the shape of its stage-1 model
        shape = shape["init"]
    verb, stage = ("train", "esrgan") if about["stage"] == "gan" else ("pretrain", "psnr")
    kind: type[Config] = TrainConfig if verb == "train" else PretrainConfig
    config = CONFIGS / f"{_size(shape['recipe'])}_{stage}_x{shape['recipe']['generator.scale']}.toml"
    init = f" --init runs/{len(earlier)}/best.safetensors" if before else ""
    words = f"esrgan {verb} --config configs/{config.name} --images PHOTOS --val VAL{_options(recipe, config, kind)}"
    return [*earlier, f"{words}{init} --run-dir runs/{len(earlier) + 1}"]


def _size(recipe: dict[str, Any]) -> str:
    """How the configs of a network of this shape are named: lite, medium or full."""
    sides = ("generator.channels", "generator.growth", "generator.blocks")
    for name in SIZES:
        table = _table(CONFIGS / f"{name}_psnr_x4.toml", PretrainConfig)
        if all(table[side] == recipe[side] for side in sides):
            return name
    raise EsrganError(
        f"no config is of a network of {', '.join(f'{side} {recipe[side]}' for side in sides)}; write one"
    )


def _options(recipe: dict[str, Any], path: Path, kind: type[Config]) -> str:
    """What the recipe has otherwise than the config file, as options of the command."""
    table, words = _table(path, kind), ""
    for name, value in recipe.items():
        if name in {"images", "val", "init"} | FREE - {"steps"} or value == table.get(name):
            continue
        if isinstance(value, dict):
            words += "".join(f" --{name.replace('_', '-')}.{key} {each}" for key, each in value.items())
        else:
            words += f" --{name.replace('_', '-')} {' '.join(map(str, value)) if isinstance(value, list) else value}"
    return words


def _table(path: Path, kind: type[Config]) -> dict[str, Any]:
    """A config file under dotted names, with the defaults of what it leaves out."""
    config = TrainConfig(images=(path,), init=path) if kind is TrainConfig else PretrainConfig(images=(path,))
    return plain(config) | flattened(tomllib.loads(path.read_text(encoding="utf-8")))


def _sentence(notes: str) -> str:
    return notes and f"{notes[0].upper()}{notes[1:].rstrip('.')}."


def _card(about: dict[str, Any], path: Path, curve: list[dict[str, Any]], millions: float) -> str:
    """The model card: what the header says, for people."""
    name, gan = about["name"], about["stage"] == "gan"
    scores = ["| | PSNR-Y | SSIM-Y | LPIPS |", "| --- | --- | --- | --- |"]
    scores += [
        f"| {row['name']} | {row['psnr_y']:.2f} | {row['ssim_y']:.4f} | {row['lpips']:.4f} |"
        for row in about["scores"]["datasets"]
    ]
    points = ["| step | PSNR-Y | LPIPS |", "| --- | --- | --- |"]
    for row in (*curve[: -1 : max(1, len(curve) // 12)], *curve[-1:]):
        lpips = "-" if row["lpips"] is None else f"{row['lpips']:.4f}"
        label = "bicubic" if row.get("bicubic") else row["step"]
        points.append(f"| {label} | {row['psnr_y']:.3f} | {lpips} |")
    recipe = "\n".join(f"{key} = {toml_value(value)}" for key, value in about["recipe"].items())
    licences = "\n".join(f"- {count} x {licence}" for licence, count in about["data"]["licences"].items())
    aim = (
        "It invents plausible detail: do not use it for measuring or identifying. Its header describes the models that it "
        "was begun from."
        if gan
        else "It gives the pixels that are the most accurate on average, so pictures are smooth: detail that cannot be known "
        "is left out."
    )
    shown = name
    if path.parent != SHIPPED:
        shown = f"{path.parent.name}/{path.name}"
        aim += f" It is not in the package, only in the repository, as `{shown}`."
    steps = ""
    if curve and curve[-1]["step"] > about["recipe"]["steps"]:
        steps = "\n\nSteps count on over all runs of this model, while the recipe names the step within the last one."
    qualities = about["recipe"].get("jpeg")
    limits = (
        "Its LR pictures were made by bicubic reduction of clean photographs and stored as JPEG files of qualities "
        f"{qualities[0]} to {qualities[1]}. It turns noise into texture, and makes clean pictures smoother than need be."
        if qualities
        else "Its LR pictures were made by bicubic reduction of clean photographs only. It turns noise into texture and "
        "sharpens the\nblocks of JPEG files."
    )
    return f"""# {name}

{"GAN model (stage 2)" if gan else "PSNR model (stage 1)"}, {path.stat().st_size / 1e6:.1f} MB, licence {about["licence"]}. {aim}

## Scores

{chr(10).join(scores)}

Protocol: {about["scores"]["protocol"]}. Measured by `scripts/ship_model.py` on the file as shipped (weights rounded to
fp16, arithmetic in fp32). LR: MATLAB's bicubic where the set has it at this scale (Set5 at x2 and x3, all at x4), else made by this program in the same way.

## Recipe

Step {about["step"]} of the last run, shipped from commit `{about["commit"]}`, {", ".join(f"{k} {v}" for k, v in about["software"].items())}. {_sentence(about.get("notes", ""))}
After training, its mean error of colour on {about["centred"]["pictures"]} training pictures, {", ".join(map(str, about["centred"]["levels"]))} levels of 255 in red, green and
blue, was subtracted from the last bias.

All commands, beginning with random weights (PHOTOS and VAL are yours, since the photographs are not distributed; all options of the last command are below):

```sh
{chr(10).join(_commands(about))}
```

```toml
{recipe}
```

## Validation on {about.get("validation", {}).get("pictures", "some")} photographs of the same sources

{chr(10).join(points)}{steps}

## Limits

{limits} Text, drawings and faces are rare in its training pictures. It has {millions:.1f} million parameters and was
trained for a small part of the time that the paper's networks had.

## Data

{about["data"]["pictures"]} crops of 480 x 480 pixels from freely licensed photographs, of which this file holds none; no crop shows a picture of the benchmark
sets. The file's header names the repositories they come from (`esrgan models show {shown}`). Licences, as their sources state them:

{licences}
"""


if __name__ == "__main__":
    sys.exit(run(app, sys.argv[1:]))
