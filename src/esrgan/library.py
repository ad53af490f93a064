"""Models by name: those shipped with the package and those in the user's model folder."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esrgan.errors import EsrganError
from esrgan.files import home
from esrgan.model_file import SUFFIXES, Header, read_header

SHIPPED = Path(__file__).parent / "models"
SIZES = ("full", "medium", "lite")  # best first; also slowest first


def user_folder() -> Path:
    """Where the user keeps model files of their own; ``ESRGAN_MODELS`` names another place.

    Raises:
        EsrganError: The user has no home folder, and no other place is named.
    """
    if own := os.environ.get("ESRGAN_MODELS"):
        return Path(own)
    return home("XDG_DATA_HOME", ".local/share", instead="ESRGAN_MODELS") / "esrgan" / "models"


@dataclass(frozen=True)
class Entry:
    """A model at hand."""

    name: str
    path: Path
    shipped: bool

    def header(self) -> Header:
        """What the file says of itself."""
        return read_header(self.path)

    def size(self) -> int:
        """Bytes that it takes on the disk; of ncnn models both files'."""
        weights = self.path.with_suffix(".bin")
        pair = self.path.suffix == ".param" and weights.is_file()
        return self.path.stat().st_size + (weights.stat().st_size if pair else 0)


def entries() -> list[Entry]:
    """The models at hand, shipped ones first; a user's file hides none of them.

    Raises:
        EsrganError: The user's folder is there and cannot be read.
    """
    return sorted(_by_name().values(), key=lambda entry: (not entry.shipped, entry.name))


def hidden() -> list[Entry]:
    """The files in the user's folder that have the name of another model, which is the one that the name means."""
    known = _by_name()
    return [entry for entry in _in(user_folder(), shipped=False) if known[entry.name] != entry]


def _by_name() -> dict[str, Entry]:
    return {entry.name: entry for entry in (*_in(user_folder(), shipped=False), *_shipped())}


def find_model(model: str | Path | None = None, *, scale: float = 4, device: str = "cpu", paired: bool = False) -> Path:
    """The file of ``model``: a path, a name at hand, ``hf:owner/name`` on the Hub or, with none, the best default.

    The default is the shipped GAN model of this scale, or else of the next larger one (or the largest there is); on a
    CUDA GPU the best such network, elsewhere the smallest, which is a dozen times as fast.

    Args:
        model: A path, a name or ``hf:owner/name``; none = the default.
        scale: What the default is chosen by; 0 or more.
        device: Likewise: cpu, cuda, mps.
        paired: Likewise: only a model beside which its PSNR model lies, to be blended with.

    Raises:
        EsrganError: No such model; the message lists the names.
    """
    if model is None:
        return _default(scale, device, paired=paired)
    if str(model).startswith("hf:"):
        from esrgan.hub import pull  # noqa: PLC0415 - an extra

        return pull(str(model))
    if Path(model).is_file():
        return Path(model)
    listed = (entry for some in (_shipped, entries) for entry in some())  # shipped ones need no folder of the user's
    for entry in listed:
        if str(model) in (entry.name, entry.path.name):
            return entry.path
    if Path(model).name == "best.safetensors" and (latest := Path(model).with_name("latest.safetensors")).is_file():
        raise EsrganError(f"there is no {model}: without --val no model is the best; take {latest}")
    names = ", ".join(entry.name for entry in entries()) or "none"
    raise EsrganError(f"there is no model {str(model)!r}: neither a file nor one of the models at hand ({names})")


def name_of_model(model: str | Path | None, path: Path) -> str:
    """What to call ``model``, which was found at ``path``: of the Hub's, which are all called model, the whole name."""
    return str(model) if str(model).startswith("hf:") else path.stem


def partner(path: Path) -> Path:
    """The PSNR model beside a GAN model: ``lite_x4_psnr`` for ``lite_x4_gan``.

    Raises:
        EsrganError: There is none by that rule.
    """
    other = _psnr_name(path)
    if other == path:
        raise EsrganError(f"{path.name} is not named as a GAN model; give one with --model, or --psnr-model FILE too")
    if not other.is_file():
        raise EsrganError(f"{path.name} has no PSNR model beside it to blend with; name one with --psnr-model FILE")
    return other


def _psnr_name(path: Path) -> Path:
    return path.with_name(re.sub(r"(?<![a-z])gan(?![a-z])", "psnr", path.name))


def _default(scale: float, device: str, *, paired: bool) -> Path:
    shipped = {
        entry: entry.header().config
        for entry in _shipped()
        if entry.name.endswith("_gan") and (not paired or _psnr_name(entry.path).is_file())
    }
    if not shipped:
        raise EsrganError("no model is shipped with this installation; name one with --model FILE")
    scales = {config.scale for config in shipped.values()}
    wanted = min((s for s in scales if s >= scale), default=max(scales))
    fitting = [entry for entry, config in shipped.items() if config.scale == wanted]
    choose = max if str(device).startswith("cuda") else min
    return choose(fitting, key=lambda entry: [entry.name.startswith(size) for size in SIZES]).path  # lite ... full


def _shipped() -> Iterator[Entry]:
    return _in(SHIPPED, shipped=True)


def _in(folder: Path, *, shipped: bool) -> Iterator[Entry]:
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield Entry(path.stem, path, shipped)
    except FileNotFoundError:
        return
    except OSError as error:
        raise EsrganError(
            f"the model folder {folder} cannot be read ({error.strerror}); mend that, or let ESRGAN_MODELS name another"
        ) from error
