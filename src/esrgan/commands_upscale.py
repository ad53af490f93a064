"""The verb ``upscale``."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter, validators

from esrgan.commands_options import SPEED, Positive, Size, Upscaling

if TYPE_CHECKING:  # these import torch
    from esrgan.engines import Network
    from esrgan.folders import Naming, Plan

MODEL = Group("Model", sort_key=2)
FILES = Group("Files", sort_key=3)

Share = validators.Number(gte=0, lte=1)


def _no_option_input(_: Any, path: Path) -> None:
    """Say that an option is unknown, where it came through as an input because ``-`` is one."""
    if str(path).startswith("-") and str(path) != "-" and not path.exists():
        raise ValueError(f"Unknown option: {path}")


def _no_option(_: Any, out: Path | None) -> None:
    """Say that the value is missing, where the next option came through as one because ``-`` is one."""
    if str(out).startswith("--"):
        raise ValueError(f"{out} is an option; put a folder or a file before it (./{out} for one of that name)")


def upscale_command(  # noqa: PLR0913 - each is an option that somebody sets
    *inputs: Annotated[
        Path, Parameter(name="INPUTS", required=True, allow_leading_hyphen=True, validator=_no_option_input)
    ],
    out: Annotated[
        Path | None, Parameter(name=["--out", "-o"], allow_leading_hyphen=True, validator=_no_option)
    ] = None,
    size: Size = Size(),
    model: Annotated[str | None, Parameter(group=MODEL)] = None,
    alpha: Annotated[float | None, Parameter(group=MODEL, validator=Share)] = None,
    psnr_model: Annotated[str | None, Parameter(group=MODEL)] = None,
    format_: Annotated[str | None, Parameter(name="--format", group=FILES)] = None,
    name: Annotated[str, Parameter(group=FILES)] = "{stem}_x{scale}",
    overwrite: Annotated[bool, Parameter(group=FILES, negative=())] = False,
    compare: Annotated[bool, Parameter(group=FILES, negative=())] = False,
    json: Annotated[Path | None, Parameter(group=FILES)] = None,
    limit_pixels: Annotated[int, Parameter(group=FILES), Positive] = 300_000_000,
    running: Upscaling = Upscaling(),
    ray: Annotated[bool, Parameter(group=SPEED, negative=())] = False,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative=())] = False,
) -> int:
    """Enlarge pictures; everything about them but the size stays: profile, EXIF, 16 bits, transparency, frames.

    The same command again continues where it stopped: what is done, by the same model and options, is skipped.

    Args:
        inputs: Pictures, folders (searched recursively), .txt lists of them, or - for standard input.
        out: Folder for the results; or, for one picture, a file; or - for standard output. Folders are mirrored in it.
            ["upscaled", or - where the input is -]
        size: Of the results.
        model: Name of a model at hand (see `esrgan models`) or a file. [the GAN model that suits scale and device]
        alpha: Blend a PSNR model (0) with the GAN model (1); 0.8 has fewer invented details than 1.
        psnr_model: PSNR model that --alpha blends with. [the one beside the GAN model]
        format_: Format of the results: png, jpeg, webp, tiff, gif, avif. [as each picture is]
        name: Name of the results, which may hold {stem}, {scale} and {suffix}, the picture's; its own is the format's.
        overwrite: Redo what is done, and replace files that this command did not make.
        compare: Also write STEM_x4_compare.png: bicubic on the left, the network on the right.
        json: JSON file for a report of every picture.
        limit_pixels: Refuse pictures with more than this, as decompression bombs.
        running: Of the network.
        ray: Enlarge on all machines of a Ray cluster, RAY_ADDRESS's or this machine's; they need shared folders.
        verbose: Also say what runs where, and how long each picture took.
    """
    from esrgan.enlarge_file import Enlargement  # noqa: PLC0415 - torch
    from esrgan.errors import UsageError  # noqa: PLC0415
    from esrgan.folders import STDIO, Naming  # noqa: PLC0415
    from esrgan.memory import keep_buffers  # noqa: PLC0415
    from esrgan.picture_formats import find_format  # noqa: PLC0415
    from esrgan.ray_workers import Workers  # noqa: PLC0415
    from esrgan.record import Record  # noqa: PLC0415
    from esrgan.upscale_report import carry_out  # noqa: PLC0415
    from esrgan.upscale_run import Runner  # noqa: PLC0415
    from esrgan.upscaler import Upscaler  # noqa: PLC0415

    keep_buffers()
    out = out or (STDIO if inputs == (STDIO,) else Path("upscaled"))
    if psnr_model and alpha is None:
        raise UsageError("--psnr-model needs --alpha")
    if ray and STDIO in (*inputs, out):
        raise UsageError("--ray takes files that all machines see, not standard input or output")
    form = find_format(format_) if format_ else None
    here = Upscaling(device="cpu") if ray else running  # Ray's workers have devices of their own
    network, weights = _load(model, alpha, psnr_model, size.scale, here.device)
    upscaler = Upscaler(network, **asdict(here))
    stdin = sys.stdin.buffer.read() if STDIO in inputs and sys.stdin else b""  # which may be closed
    naming = Naming(out=out, pattern=name, form=form, how=Enlargement(**asdict(size)), network_scale=upscaler.scale,
                    limit_pixels=limit_pixels, stdin=stdin)  # fmt: skip
    todo = _planned(inputs, naming, report=json, compare=compare, hints=model is None)
    upscaler.expect(len(todo.jobs))
    workers = Workers(network, asdict(running), naming) if ray and todo.jobs else None
    runner = Runner(upscaler=upscaler, naming=naming, record=Record(naming.root), key=_key(weights, running, naming),
                    overwrite=overwrite, compare=compare, elsewhere=workers)  # fmt: skip
    if verbose:
        count = len(todo.jobs)
        print(f"{count} picture{'s' * (count != 1)}; {(workers or upscaler).about}", file=sys.stderr)
    return carry_out(runner, todo, report=json, verbose=verbose)


def _planned(inputs: tuple[Path, ...], naming: "Naming", *, report: Path | None, compare: bool, hints: bool) -> "Plan":
    """What to do, none of which is in the way of another, and the folder for it; with ``hints`` at another model."""
    from esrgan.files import require_json  # noqa: PLC0415
    from esrgan.folders import STDIO, plan, remove_leftovers  # noqa: PLC0415 - torch
    from esrgan.jpeg_advice import advise_on_jpeg  # noqa: PLC0415

    require_json(report)
    todo = plan(inputs, naming)
    _refuse_report(report)
    if compare:
        _refuse_shared_comparisons(todo)
    if naming.out != STDIO:
        _make_folder(naming.root)
        remove_leftovers({job.target.parent for job in todo.jobs})
    if hints and (advice := advise_on_jpeg([job.source for job in todo.jobs], naming.network_scale)):
        print(advice, file=sys.stderr)
    return todo


def _key(weights: str, running: Upscaling, naming: "Naming") -> str:
    """What results are made with, as far as it was asked for: where it was left to auto, another machine may go on."""
    asked = running.precision, running.engine, running.tile, running.overlap
    return f"{weights} {asked} {naming.how} {naming.form.name if naming.form else None}"


def _refuse_report(path: Path | None) -> None:
    """Refuse a report in the place of any file but an earlier report."""
    from esrgan.errors import UsageError  # noqa: PLC0415 - torch
    from esrgan.upscale_report import is_report  # noqa: PLC0415

    if path and path.exists() and not is_report(path):
        raise UsageError(f"{path} is there and not a report of this command; give --json another name")


def _refuse_shared_comparisons(todo: "Plan") -> None:
    from esrgan.compare import comparison_path, refuse_shared  # noqa: PLC0415 - torch
    from esrgan.errors import UsageError  # noqa: PLC0415
    from esrgan.folders import STDIO  # noqa: PLC0415

    if any(job.target == STDIO for job in todo.jobs):
        raise UsageError("--compare writes a file of its own; it cannot go with standard output")
    refuse_shared(job.target for job in todo.jobs)
    sources = {job.source.resolve() for job in todo.jobs}
    for path in (comparison_path(job.target) for job in todo.jobs):
        if path.resolve() in sources:
            raise UsageError(f"{path} is an input and would be replaced by a comparison; use another --out or --name")


def _load(
    model: str | None, alpha: float | None, psnr_model: str | None, scale: float | None, device: str
) -> "tuple[Network, str]":
    """The network, and what identifies its weights."""
    from esrgan.engines import torch_device  # noqa: PLC0415 - torch
    from esrgan.interpolate import load_blend  # noqa: PLC0415
    from esrgan.library import find_model, partner  # noqa: PLC0415
    from esrgan.model_file import DOUBT, fingerprint, read_model  # noqa: PLC0415
    from esrgan.other_network import load_network  # noqa: PLC0415

    paired = alpha is not None and psnr_model is None
    path = find_model(model, scale=scale or 4, device=str(torch_device(device)), paired=paired)
    if alpha is None:
        network = load_network(path)
        if scale == 3 and network.scale == 2 and read_model(path).may_be_x3:
            print(f"{path.name} is taken for an x2 model ({DOUBT})", file=sys.stderr)
        return network, fingerprint(path)
    other = find_model(psnr_model) if psnr_model else partner(path)
    network, warning = load_blend(other, path, alpha)
    if warning:
        print(warning, file=sys.stderr)
    return network, f"{fingerprint(other)} {alpha} {fingerprint(path)}"


def _make_folder(folder: Path) -> None:
    from esrgan.errors import EsrganError  # noqa: PLC0415

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EsrganError(f"cannot make the folder {folder}: {error.strerror}; choose another --out") from error
