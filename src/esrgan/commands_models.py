"""The verbs that move models about: ``convert``, ``export``, ``interpolate``, ``models show``, ``push``, ``pull``."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from esrgan.commands_options import Overwrite


def convert_command(  # noqa: PLR0913 - each is an option that somebody sets
    model: str,
    out: Path,
    /,
    *,
    to: Literal["esrgan", "basicsr", "old"] | None = None,
    half: Annotated[bool, Parameter(negative=())] = False,
    scale: int | None = None,
    author: str | None = None,
    licence: Annotated[str | None, Parameter(name=["--licence", "--license"])] = None,
    description: str | None = None,
    openmodeldb: Path | None = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a model file of any dialect in another, and prove that it is the same network.

    Args:
        model: A model file (.safetensors, .pth, ncnn .param) or the name of a model at hand.
        out: The file to write, .safetensors or .pth.
        to: esrgan: ours. basicsr: Real-ESRGAN's names, which nearly every program reads. old: the names of 2018.
            [esrgan for .safetensors, basicsr for .pth]
        half: Store 16-bit weights.
        scale: The network's enlargement, 2 or 3, where the file cannot tell; else such a model is taken for x2.
        author: What the new file says of who made the model. [as MODEL says, as the next two]
        licence: Its licence, by custom an SPDX name: MIT, CC-BY-4.0, CC0-1.0.
        description: What it is good for.
        openmodeldb: Also write the metadata that OpenModelDB wants, as JSON, to this file.
        overwrite: Replace files that are there.
    """
    from esrgan.convert import convert  # noqa: PLC0415 - torch only when asked for
    from esrgan.errors import UsageError  # noqa: PLC0415
    from esrgan.files import require_new, require_other, with_weights  # noqa: PLC0415
    from esrgan.openmodeldb import write_openmodeldb  # noqa: PLC0415

    if openmodeldb and openmodeldb.resolve() == out.resolve():
        raise UsageError(f"{out} is to be the model; give --openmodeldb a name of its own")
    source = _find(model)
    if openmodeldb:
        require_other(openmodeldb, *with_weights(source))
    require_new(out, openmodeldb, overwrite=overwrite)
    said = {"author": author, "licence": licence, "description": description}
    about = {name: text for name, text in said.items() if text is not None}
    result = convert(source, out, dialect=to, half=half, scale=scale, about=about)
    print(f"{out}: {result.dialect}, x{result.scale}")
    for line in (*result.parity, *result.notes):
        print(f"  {line}")
    if openmodeldb:
        write_openmodeldb(out, openmodeldb, about=result.provenance)
        print(f"{openmodeldb}: fill in what is empty")


def export_command(
    model: str,
    out: Path,
    /,
    *,
    half: Annotated[bool, Parameter(negative=())] = False,
    picture: Path | None = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a model for another engine, and prove there that it is the same network.

    Args:
        model: A model file or the name of a model at hand.
        out: Ends in .onnx, .xml (OpenVINO), .param (ncnn) or .pt2 (torch.export).
        half: 16-bit weights; in ONNX and torch.export also 16-bit pictures in and out.
        picture: A picture to compare with. [a photograph that comes along]
        overwrite: Replace the file, and those beside it that go with it, if it is there.
    """
    from esrgan.export import export, report_of  # noqa: PLC0415
    from esrgan.files import require_new  # noqa: PLC0415

    require_new(out, report_of(out), overwrite=overwrite)
    rows = export(_find(model), out, half=half, picture=picture)
    print(out)
    for row in rows:
        print(f"  {row}")


def interpolate_command(
    *models: str,
    alpha: float | None = None,
    weights: Annotated[tuple[float, ...], Parameter(consume_multiple=True, negative=())] = (),
    out: Path,
    overwrite: Overwrite = False,
) -> None:
    """Blend networks of one family: a PSNR and a GAN model by --alpha, or several models by --weights.

    Args:
        models: Model files of any dialect, or names of models at hand.
        alpha: Share of the second of two models, 0 to 1.
        weights: One for each model, of any sum.
        out: The model file to write, .safetensors.
        overwrite: Replace the file if it is there.
    """
    from esrgan.errors import UsageError  # noqa: PLC0415
    from esrgan.files import require_new  # noqa: PLC0415
    from esrgan.interpolate import blend_files  # noqa: PLC0415

    if out.suffix != ".safetensors":
        raise UsageError(f"{out} must end in .safetensors; `esrgan convert` then makes other files of it")
    if (alpha is None) == (not weights):
        raise UsageError("give either --alpha, the share of the second of two models, or --weights, one for each model")
    if alpha is not None:
        if len(models) != 2 or not 0 <= alpha <= 1:
            raise UsageError("--alpha blends two models and is from 0 to 1; for more give --weights")
        weights = (1 - alpha, alpha)
    require_new(out, overwrite=overwrite)
    warning = blend_files([_find(model) for model in models], weights, out)
    print(out)
    if warning:
        print(f"  {warning}", file=sys.stderr)


def show_command(model: str, /, *, speed: bool = True, full: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Tell what a model file is: its network, licence and origin, and what it costs on this machine.

    Args:
        model: A model file of any dialect, or the name of a model at hand.
        speed: Measure how long it takes; some seconds.
        full: Tell all of the model that this one was begun from, not a line.
    """
    from esrgan.describe import describe  # noqa: PLC0415

    for name, value in describe(_find(model), speed=speed, full=full).items():
        print(f"{name:<15} {value}")


def push_command(
    model: str,
    repository: str,
    /,
    *,
    preview: Annotated[tuple[Path, ...], Parameter(negative=())] = (),
    private: Annotated[bool, Parameter(negative=())] = False,
    overwrite: Overwrite = False,
) -> None:
    """Upload a model to the Hugging Face Hub, with a card made from its header.

    Args:
        model: A model file of ours, or the name of a model at hand.
        repository: owner/name on the Hub; made where there is none.
        preview: A picture for the card; may be given several times.
        private: Make a new repository visible to you only.
        overwrite: Replace the model and the card that are there.
    """
    from esrgan.hub import push  # noqa: PLC0415

    print(push(_find(model), repository, previews=preview, private=private, overwrite=overwrite))


def pull_command(repository: str, /) -> None:
    """Fetch a model from the Hugging Face Hub into its ordinary cache; afterwards `--model hf:owner/name` is offline.

    Args:
        repository: owner/name on the Hub.
    """
    from esrgan.hub import pull  # noqa: PLC0415

    print(pull(repository, refresh=True))


def _find(model: str) -> Path:
    from esrgan.library import find_model  # noqa: PLC0415

    return find_model(model)
