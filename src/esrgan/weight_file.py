"""Tensors out of any file of weights, by its content and not its name; nothing in the file is executed.

A ``.pth`` is a pickle. It is read by ``torch.load(weights_only=True)`` alone, and only after its instructions were
looked through for anything that tensors do not need. Memory stays within a small multiple of the file's size.
"""

import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from esrgan.errors import EsrganError

SAFE = re.compile(
    r"collections OrderedDict|torch (\w+Storage|Size|device|float\w*|bfloat16)|torch\.storage \w+Storage"
    r"|torch\._utils _rebuild_(tensor_v2|parameter)|torch\.nn\.parameter Parameter"
)
"""What a pickle of tensors refers to. ``weights_only`` allows more, for instance ways to claim any amount of memory."""
LARGEST_PICKLE = 32 * 2**20  # the instructions alone, without the tensors; real ones have below 1 MB
INNER = ("params_ema", "params", "state_dict", "generator", "net_g", "model_state_dict", "model")
"""Under which key the weights lie, the best first."""
PREFIX = re.compile(r"(module|_orig_mod|params_ema|params|generator|net_g|netG)\.")
UNREADABLE = (
    *(UnpicklingError, EOFError, OSError, struct.error, MemoryError, RecursionError, RuntimeError, AssertionError),
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError),
)
"""What torch.load raises on damaged files."""
MAGIC = {
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"RIFF": "a picture",
    b"<": "a web page; the download went wrong",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
    b"ustar": "a tar archive",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a rar archive; unpack it first",
    b"\x08": "probably an exported ONNX network; give the model file that it was made from",
}


class WeightFile(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, Tensor]
    """In the file's own precision, each with memory of its own, without prefixes such as ``module.``."""
    metadata: dict[str, str]
    """A safetensors header's; empty for the rest."""
    kind: str
    """safetensors, or pth."""


def read_weights(path: Path) -> WeightFile:
    """The tensors of a safetensors, ``.pth`` (zip) or old ``.pth`` (bare pickle) file.

    Raises:
        EsrganError: None of these, damaged, without tensors, or a pickle that asks for more than tensors.
    """
    if not path.is_file():
        raise EsrganError(f"there is no model file {path}; `esrgan models` lists the models at hand")
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{":
        return _safetensors(path)
    if start[:4] == b"PK\x03\x04":
        return _pth(path, _check_zip, mmap=True)
    if start[:1] == b"\x80":
        return _pth(path, _check_legacy, mmap=False)
    known = [meaning for magic, meaning in MAGIC.items() if start.lstrip().startswith(magic)]
    raise EsrganError(f"{path} is not a model file but {known[0] if known else 'of an unknown kind, or empty'}")


def _safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return WeightFile(_bare(tensors), file.metadata() or {}, "safetensors")
    except (SafetensorError, OSError) as error:
        raise EsrganError(f"{path} is a damaged safetensors file ({_line(error)}); download it again") from error


def _pth(path: Path, check: Callable[[Path], None], *, mmap: bool) -> WeightFile:
    """Read a pickle. A zip is mapped: a storage that claims more than its record holds then cannot be built."""
    mmap = mmap and path.suffix != ".safetensors"  # torch.load believes the name of a path, and only maps paths
    try:
        check(path)
        with path.open("rb") as file:
            content = torch.load(str(path) if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)
        tensors = _tensors(content, path)
        if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > path.stat().st_size:
            raise EsrganError(f"{path} claims more numbers than it holds; it is damaged or malicious")
        return WeightFile({name: tensor.detach().clone() for name, tensor in _bare(tensors).items()}, {}, "pth")
    except zipfile.BadZipFile as error:
        raise EsrganError(f"{path} is a truncated or damaged .pth file ({error}); download it again") from error
    except UNREADABLE as error:
        raise EsrganError(f"{path} cannot be read as a .pth file of weights ({_line(error)})") from error


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if any("/code/" in name or name.endswith("/archive_format") for name in names):
            raise EsrganError(f"{path} is a TorchScript or exported program, which is code; give the weights it is of")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise EsrganError(f"{path} is a compressed archive, which .pth files are not; unpack it if it holds one")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise EsrganError(f"{path} declares more data than the file holds; it is damaged or malicious")
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise EsrganError(f"{path} is a zip archive but no .pth file of weights")
        with archive.open(pickles[0]) as file:
            _check_pickle(file, path)


def _check_legacy(path: Path) -> None:
    with path.open("rb") as file:
        for _ in range(5):  # magic number, protocol, system, the object, the storages' keys; then raw numbers
            _check_pickle(file, path)


def _check_pickle(file: Any, path: Path) -> None:
    """Follow the instructions without obeying them; refuse any that name something other than tensors."""
    stream: BinaryIO = file
    texts: list[str] = []
    for operation, value, _ in pickletools.genops(stream):
        if operation.name == "STACK_GLOBAL":
            value = " ".join(texts[-2:])  # noqa: PLW2901 - the same thing as GLOBAL's, named by the two texts before
        elif isinstance(value, str) and operation.name != "GLOBAL":
            texts = [*texts[-1:], value]
        if operation.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not SAFE.fullmatch(str(value)):
            wanted = str(value).replace(" ", ".")
            raise EsrganError(
                f"{path} is a pickle that asks for {wanted!r}, which weights do not need: refused, and nothing in it "
                "was run; ask its author for a .safetensors file, or for one with the weights alone"
            )
        if stream.tell() > LARGEST_PICKLE:
            raise EsrganError(f"{path} has more pickle instructions than any model file; it is damaged or malicious")


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in ``content``: itself, or what lies under one of the customary keys."""
    for _ in range(2):
        if not isinstance(content, dict):
            break
        found = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if len(found) > 1:
            return found
        content = next((content[key] for key in INNER if isinstance(content.get(key), dict)), None)
    raise EsrganError(f"{path} has no weights of a network in it; a training state is no model, give the model file")


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while tensors and all(PREFIX.match(name) for name in tensors):
        tensors = {PREFIX.sub("", name, count=1): tensor for name, tensor in tensors.items()}
    return tensors


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
