"""The verb ``test``: scores on benchmark folders."""
# ruff: noqa: PT028 - a command, not a test

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from esrgan.commands_options import Overwrite, Running

if TYPE_CHECKING:
    from rich.console import Console

    from esrgan.benchmark import Dataset, Model, Report
    from esrgan.lpips import LPIPS
    from esrgan.pairs import PairFiles

COLUMNS = {
    "psnr_y": ("psnr_y", 2),
    "ssim_y": ("ssim_y", 4),
    "lpips": ("lpips", 4),
    "grid2": ("grid2", 2),
    "grid4": ("grid4", 2),
    "unevenness": ("uneven", 3),
    "overshoot": ("over", 2),
    "colour_shift": ("colour", 2),
    "seconds": ("sec", 2),
}
"""The scores of a table, their heads, so short that 80 characters hold the table, and their decimal places."""


def test_command(  # noqa: PLR0913 - each is an option
    *,
    data: Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative="")],
    model: str | None = None,
    alpha: Annotated[float | None, Parameter(validator=Number(gte=0, lte=1))] = None,
    scale: Annotated[int | None, Parameter(validator=Number(gt=0))] = None,
    lpips: Path | None = None,
    jpeg: Annotated[int | None, Parameter(validator=Number(gte=1, lte=100))] = None,
    json: Path | None = None,
    save: Path | None = None,
    overwrite: Overwrite = False,
    running: Running = Running(),
) -> int:
    """Score a model on benchmark folders: PSNR-Y, SSIM-Y, LPIPS, grids, colour, seconds.

    Args:
        data: Folders such as Set5, with HR and LR in it or in x4; without LR it is made from HR.
        model: Name or file of a model, bicubic, or a folder of SR pictures that another program wrote; none = the
            default model.
        alpha: Blend the PSNR model beside it (0) with the GAN model (1).
        scale: The enlargement to test; none = the model's, 4 for bicubic and pictures.
        lpips: LPIPS-AlexNet weights; none = from torch's cache, or fetched.
        jpeg: Quality, 1 to 100, of JPEG files that the LR pictures go through first; none = as they are.
        json: File for all scores, picture by picture.
        save: Folder for the SR pictures, as DATASET/NAME.png.
        overwrite: Replace that file, and pictures in that folder, if they are there.
        running: How the network runs.
    """
    from esrgan.benchmark import evaluate  # noqa: PLC0415 - only when asked for
    from esrgan.errors import UsageError  # noqa: PLC0415
    from esrgan.files import require_json, require_new  # noqa: PLC0415
    from esrgan.pairs import find_pairs  # noqa: PLC0415

    require_json(json)
    require_new(json, overwrite=overwrite)
    if save and save.exists() and not (overwrite or (save.is_dir() and not any(save.iterdir()))):
        raise UsageError(f"{save} is there and not an empty folder; choose another, or --overwrite what is in it")
    network, name = _network(model, alpha, scale, running)
    for folder in data:
        find_pairs(folder, network.scale)  # before anything is fetched
    measure, note = _lpips(lpips, str(getattr(network, "device", "cpu")))
    report = evaluate(network, data, name=name, lpips=measure, jpeg=jpeg, save=save, track=_progress)

    _print_report(report, name, note)
    if json:
        report.save(json)
    for line in report.errors:
        print(f"esrgan: not measured: {line}", file=sys.stderr)
    return 1 if report.errors else 0


def _print_report(report: "Report", name: str, note: list[str]) -> None:
    from rich.console import Console  # noqa: PLC0415

    console = Console()
    if not console.is_terminal:  # where nothing limits the width
        console.width = 1000
    for dataset in report.datasets:
        _print_table(console, dataset, name)
    for line in (f"Protocol: {report.protocol}", *note):
        console.print(line, style="dim", highlight=False, soft_wrap=True, markup=False)


def _network(model: str | None, alpha: float | None, scale: int | None, running: Running) -> "tuple[Model, str]":
    from esrgan.engines import torch_device  # noqa: PLC0415
    from esrgan.errors import UsageError  # noqa: PLC0415
    from esrgan.interpolate import load_blend  # noqa: PLC0415
    from esrgan.library import find_model, name_of_model, partner  # noqa: PLC0415
    from esrgan.stand_ins import Bicubic, Pictures  # noqa: PLC0415
    from esrgan.upscaler import Upscaler  # noqa: PLC0415

    if model and (model == "bicubic" or Path(model).is_dir()):
        if alpha is not None:
            raise UsageError(f"--alpha blends two networks, and {model} is none")
        size = 4 if scale is None else scale
        return (Bicubic(size), model) if model == "bicubic" else (Pictures(Path(model), size), Path(model).name)
    paired = alpha is not None
    path = find_model(model, scale=scale or 4, device=str(torch_device(running.device)), paired=paired)
    name = name_of_model(model, path)
    if alpha is None:
        upscaler = Upscaler(path, **asdict(running))
    else:
        network, warning = load_blend(partner(path), path, alpha)
        if warning:
            print(warning, file=sys.stderr)
        upscaler = Upscaler(network, **asdict(running))
        name += f", alpha {alpha:g}"
    if scale not in (None, upscaler.scale):
        raise UsageError(f"{path.name} enlarges {upscaler.scale} times, not {scale}; choose another --model or --scale")
    return upscaler, name


def _lpips(path: Path | None, device: str) -> "tuple[LPIPS | None, list[str]]":
    """The network, or none and the reason; weights that were named must be there."""
    from esrgan.errors import EsrganError  # noqa: PLC0415
    from esrgan.lpips import LPIPS  # noqa: PLC0415

    try:
        return LPIPS(path).to(device), []
    except EsrganError as error:
        if path:
            raise
        return None, [f"LPIPS is left out: {error}"]


def _progress(files: "Sequence[PairFiles]", dataset: str) -> "Iterable[PairFiles]":
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    return track(files, dataset, console=Console(stderr=True), transient=True)


def _print_table(console: "Console", dataset: "Dataset", model: str) -> None:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from esrgan.errors import name_of  # noqa: PLC0415

    title = Text(f"{model} on {dataset.name}")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_footer=True)
    table.add_column("picture", footer=f"mean of {dataset.measured}", no_wrap=True, overflow="ellipsis", min_width=11)
    for name, (head, places) in COLUMNS.items():
        table.add_column(head, footer=_number(dataset.mean(name), places), justify="right", no_wrap=True)
    for row in dataset.rows:
        values = row.to_dict()
        scores = (_number(values[name], places) for name, (_, places) in COLUMNS.items())
        table.add_row(Text(name_of(Path(row.name))), *scores)
    console.print(table)
    for name, (head, _) in COLUMNS.items():
        if 0 < (known := dataset.known(name)) < dataset.measured:
            print(f"{head}: mean of {known} pictures; of the others it is infinite or not defined")
    print()


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"
