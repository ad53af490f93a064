"""Tensors out of any file of weights, by its content and not its name; nothing in the file is executed.

A ``.pth`` is a pickle. It is read by ``torch.load(weights_only=True)`` alone, and only after its instructions were
looked through for anything that tensors do not need. Memory stays within a small multiple of the file's size.
"""

import io
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from esrgan.errors import EsrganError, first_line
from esrgan.foreign import ANCHOR
from esrgan.pickle_check import look_through

INNER = ("params_ema", "params-ema", "ema", "params", "state_dict", "model_state_dict", "generator", "net_g", "model")
"""Under which keys the weights may lie, the best first; without one of them the dict with the most tensors."""
AVERAGE = re.compile(r"(?<![a-z])ema(?![a-z])|EMA")
"""In the key of an average of weights: ``ema_state_dict``, ``net_g_ema``, ``modelEMA``."""
DEEPEST = 3
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
    b"<?xml": "probably an exported OpenVINO network; give the model file that it was made from",
    b"<": "a web page; the download went wrong",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"GGUF": "a GGUF file, which holds no ESRGAN network",
    b"\x89HDF": "an HDF5 (Keras) file; only networks of PyTorch and ncnn are read",
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
        raise EsrganError(
            f"there is no model file {path}; `esrgan models` lists those at hand by name, and"
            " esrgan.find_model(name) gives the file of one"
        )
    with path.open("rb") as file:
        start = file.read(512)
    if start[8:9] == b"{":
        return _safetensors(path)
    if start[:4] == b"PK\x03\x04":
        return _pth(path, _check_zip, mmap=True)
    if start[:1] == b"\x80":
        return _pth(path, _check_legacy, mmap=False)
    if start[257:262] == b"ustar":
        raise EsrganError(f"{path} is not a model file but a tar archive; unpack it first")
    known = [meaning for magic, meaning in MAGIC.items() if start.lstrip().startswith(magic)]
    raise EsrganError(f"{path} is not a model file but {known[0] if known else 'of an unknown kind, or empty'}")


def _safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
            return WeightFile(_bare(tensors), file.metadata() or {}, "safetensors")
    except (SafetensorError, OSError) as error:
        raise EsrganError(f"{path} is a damaged safetensors file ({first_line(error)}); download it again") from error


def _pth(path: Path, check: Callable[[Path], None], *, mmap: bool) -> WeightFile:
    """Read a pickle. A zip is mapped: a storage that claims more than its record holds then cannot be built."""
    mmap = mmap and path.suffix != ".safetensors"  # torch.load believes the name of a path, and only maps paths
    try:
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file:  # damaged ones raise them, too
            check(path)
            content = torch.load(str(path) if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)
        tensors = _tensors(content, path)
        if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > path.stat().st_size:
            raise EsrganError(f"{path} claims more numbers than it holds; it is damaged or malicious")
        return WeightFile({name: tensor.detach().clone() for name, tensor in _bare(tensors).items()}, {}, "pth")
    except zipfile.BadZipFile as error:
        raise EsrganError(
            f"{path} is a truncated or damaged .pth file ({first_line(error)}); download it again"
        ) from error
    except UNREADABLE as error:
        raise EsrganError(f"{path} cannot be read as a .pth file of weights ({first_line(error)})") from error


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
        with path.open("rb") as file:  # as on Windows torch opens no path of other letters than ASCII
            read = torch._C.PyTorchFileReader(file).get_record("data.pkl")  # by torch, which may find another one
        if read != archive.read(pickles[0]):
            raise EsrganError(f"{path} shows one pickle and has torch read another; it is malicious: refused")
        look_through(io.BytesIO(read), path)


def _check_legacy(path: Path) -> None:
    with path.open("rb") as file:
        for _ in range(5):  # magic number, protocol, system, the object, the storages' keys; then raw numbers
            look_through(file, path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in ``content``: a generator's where there is one, of those an average.

    Of several, that under a customary key, or else what holds the most tensors.
    """
    found = list(_state_dicts(content, "", DEEPEST, set()))
    if not found:
        raise EsrganError(
            f"{path} has no weights of a network in it; a training state is no model, give the model file"
        )
    ranks = {name: i for i, name in enumerate(INNER)}

    def rank(one: tuple[str, dict[str, Tensor]]) -> tuple[bool, bool, int, int]:
        path_in_file, tensors = one
        keys = path_in_file.split("\0")
        generator = any(ANCHOR.fullmatch(name) for name in tensors)
        average = any(AVERAGE.search(key) for key in keys)
        customary = next((ranks[key] for key in reversed(keys) if key in ranks), len(INNER))
        return not generator, not average, customary, -len(tensors)

    return min(found, key=rank)[1]


def _state_dicts(content: Any, key: str, depth: int, seen: set[int]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """All dicts of more than one tensor in ``content``, each with the keys that it lies under, joined by zeros."""
    if not isinstance(content, dict) or id(content) in seen:
        return
    seen.add(id(content))
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) > 1:
        yield key, tensors
    if depth:
        for name, value in content.items():
            yield from _state_dicts(value, f"{key}\0{name}", depth - 1, seen)


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while tensors and all(PREFIX.match(name) for name in tensors):
        tensors = {PREFIX.sub("", name, count=1): tensor for name, tensor in tensors.items()}
    return tensors
