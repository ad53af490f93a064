"""The verbs ``pretrain``, ``train`` and ``data check``."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Dict
from cyclopts.validators import Number

from esrgan.commands_options import whole_numbers
from esrgan.config import NESTED as TABLES
from esrgan.config import Config, PretrainConfig, TrainConfig
from esrgan.config_file import GAN_ONLY, PSNR_ONLY
from esrgan.errors import EsrganError


def from_toml(app: App, _: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill what the command line leaves open from the file that ``--config`` names."""
    tokens = [token for argument in arguments.filter_by(keys_prefix=()) if "--config" in argument.names
              for token in argument.tokens]  # fmt: skip
    if tokens:
        path = Path(tokens[-1].value)
        options = _read_toml(path)
        _check_options(path, options, verb=app.name[0])
        Dict(options, source=str(path))(app, (), arguments)


def _check_options(path: Path, options: dict[str, Any], *, verb: str) -> None:
    """Refuse what a file of options of ``esrgan VERB`` cannot have, where more can be said than that."""
    for name in TABLES.keys() & options.keys():
        if not isinstance(options[name], dict):
            raise EsrganError(f"{path}: {name} is a table of options; write [{name}] and below it name = value")
    for name in sorted(options.keys() & {"config", "dry_run", "dry-run"}):
        raise EsrganError(f"{path}: {name} is for the command line alone, as --{name.replace('_', '-')}")
    other, strange = ("train", GAN_ONLY) if verb == "pretrain" else ("pretrain", PSNR_ONLY)
    if strange := strange & options.keys():
        raise EsrganError(f"{path} is for `esrgan {other}`: `esrgan {verb}` knows no {', '.join(sorted(strange))}")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EsrganError(f"cannot read the options in {path}: {getattr(error, 'strerror', None) or error}") from error


File = Annotated[Path | None, Parameter(name="--config")]

Lists = Parameter(consume_multiple=True, negative_iterable=())  # --images A B C, and no --empty-images

DryRun = Annotated[bool, Parameter(name="--dry-run", negative="")]

pretrain_command, train_command = (
    App(name=name, config=(from_toml, whole_numbers), default_parameter=Lists, result_action="return_value")
    for name in ("pretrain", "train")
)


@pretrain_command.default
def _pretrain(
    *,
    config_file: File = None,  # noqa: ARG001 - read by ``from_toml``
    dry_run: DryRun = False,
    config: Annotated[PretrainConfig, Parameter(name="*")],
) -> None:
    """Stage 1: train a generator with L1. The same command again resumes an interrupted run.

    Args:
        config_file: TOML file of options; what is also on the command line counts from there.
        dry_run: Take 20 steps, say what they cost in time and memory, and leave nothing behind.
        config: The run.
    """
    if dry_run:
        _say_dry_run(config)
        return
    _prepare()
    from esrgan.stages import pretrain  # noqa: PLC0415 - torch

    _say(pretrain(config))


@train_command.default
def _train(
    *,
    config_file: File = None,  # noqa: ARG001 - read by ``from_toml``
    dry_run: DryRun = False,
    config: Annotated[TrainConfig, Parameter(name="*")],
) -> None:
    """Stage 2: GAN training from a stage-1 model. The same command again resumes an interrupted run.

    Args:
        config_file: TOML file of options; what is also on the command line counts from there.
        dry_run: Take 20 steps, say what they cost in time and memory, and leave nothing behind.
        config: The run.
    """
    if dry_run:
        _say_dry_run(config)
        return
    _prepare()
    from esrgan.stages import train  # noqa: PLC0415 - torch

    _say(train(config))


def _prepare() -> None:
    """Before torch is imported: its threads shall leave the cores to ours while they have nothing to do."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from esrgan.memory import keep_buffers  # noqa: PLC0415 - torch

    keep_buffers()


def _say(result: Path) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first speaks
        print(result)


def _say_dry_run(config: Config) -> None:
    _prepare()
    from esrgan.preflight import dry_run  # noqa: PLC0415 - torch

    for line in dry_run(config):
        print(line)


def data_check_command(
    *folders: Annotated[Path, Parameter(name="FOLDERS", required=True)],
    val: Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative="")] = (),
    scale: Annotated[int, Parameter(validator=Number(gt=0))] = 4,
    patch: Annotated[int, Parameter(validator=Number(gt=0))] = 128,
) -> int:
    """Look at training pictures before days are spent on them; exit code 1 if something is wrong.

    Args:
        folders: Training pictures: folders, files, .txt lists; or folders of HR and LR pairs.
        val: Validation pictures, to be sure that they are not among the training pictures.
        scale: HR over LR size.
        patch: Side of the HR training crop, in pixels.
    """
    from esrgan.config import require_whole_patches  # noqa: PLC0415
    from esrgan.doctor import examine  # noqa: PLC0415 - torch

    require_whole_patches(patch, scale)
    findings = examine(folders, val=val, scale=scale, patch=patch)
    for finding in findings:
        print(finding)
    if not findings:
        print("nothing wrong was found")
    return int(any(finding.harm for finding in findings))
