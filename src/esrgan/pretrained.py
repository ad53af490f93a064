"""Weights that others trained (VGG19, AlexNet, LPIPS): from a file, torch's cache, or their official address."""

import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from esrgan.errors import EsrganError
from esrgan.weight_file import read_weights

CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Weights:
    """A published weight file: name in torch's cache, address, how its SHA-256 begins, option that names another."""

    name: str
    url: str
    sha256: str
    option: str


VGG19 = Weights(
    "vgg19-dcbb9e9d.pth",
    "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    "dcbb9e9d",
    "--vgg",
)
ALEXNET = Weights(
    "alexnet-owt-7be5be79.pth",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "7be5be79",
    "--lpips",
)
LPIPS_ALEX = Weights(
    "lpips-alex-v0.1.pth",
    "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/alex.pth",
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "--lpips",
)


def fetch(weights: Weights) -> Path:
    """The file of ``weights`` in torch's cache, downloaded once and checked by its hash.

    Raises:
        EsrganError: Not there and not to be had, for instance offline.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        question = urllib.request.Request(weights.url, method="HEAD")  # noqa: S310 - one of the addresses above
        urllib.request.urlopen(question, timeout=CONNECT_SECONDS).close()  # noqa: S310 - torch.hub waits for ever
        torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=weights.sha256)
    except (OSError, RuntimeError) as error:
        raise EsrganError(
            f"cannot fetch {weights.url} ({error}); download it elsewhere and put it at {path}, or name a copy with"
            f" {weights.option}"
        ) from error
    return path


def read(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or ``.pth`` file by name, in fp32; nothing in it is executed.

    Raises:
        EsrganError: No such file, or no file of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise EsrganError(f"there is no weight file {path}")
    return {name: tensor.float() for name, tensor in read_weights(path).tensors.items()}


def pick(tensors: dict[str, Tensor], shapes: dict[str, torch.Size], path: Path | str) -> dict[str, Tensor]:
    """The tensors of the given names; those that are missing or of another shape are an error that names them."""
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            raise EsrganError(f"{path} has no {name} of shape {tuple(shape)}; it is the file of another network")
    return {name: tensors[name] for name in shapes}
