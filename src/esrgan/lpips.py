"""LPIPS: how different two pictures look, learned from people's judgements."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from esrgan import pretrained

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
TAPS = (1, 4, 7, 9, 11)  # AlexNet's five activations


class LPIPS(nn.Module):
    """Learned perceptual distance, AlexNet, version 0.1 (Zhang et al., arXiv 1801.03924): 0 = alike.

    RGB in [0, 1], (N, 3, H, W) twice -> (N,). Pictures must be at least 31 pixels high and wide.

    Args:
        weights: A file with the linear layers, ``lin0.weight`` to ``lin4.weight`` or under the authors' names, and
            AlexNet's ``features.*``. Without the latter torchvision's AlexNet is taken from torch's cache or fetched
            into it; without a file the authors' linear layers are too.

    Raises:
        EsrganError: Weights that cannot be had or do not fit.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: Path | str | None = None) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        for i, channels in enumerate((64, 192, 384, 256, 256)):
            self.add_module(f"lin{i}", nn.Conv2d(channels, 1, 1, bias=False))
        shapes = {name: tensor.shape for name, tensor in self.state_dict().items()}
        self.load_state_dict(pretrained.pick(_lpips_weights(weights), shapes, weights or "the LPIPS weights"))
        self.requires_grad_(False).eval()

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        distance = torch.zeros(len(sr), device=sr.device)
        for i, (a, b) in enumerate(zip(self._activations(sr), self._activations(hr), strict=True)):
            linear = cast(Callable[[Tensor], Tensor], self.get_submodule(f"lin{i}"))
            distance = distance + linear((_unit(a) - _unit(b)).square()).mean(dim=(1, 2, 3))
        return distance

    def _activations(self, image: Tensor) -> list[Tensor]:
        x = (2 * image.float() - 1 - self.shift) / self.scale
        found = []
        for i, module in enumerate(self.features):
            x = module(x)
            if i in TAPS:
                found.append(x)
        return found


def _unit(x: Tensor) -> Tensor:
    """Every pixel's features at length 1."""
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _lpips_weights(path: Path | str | None) -> dict[str, Tensor]:
    found = pretrained.read(path or pretrained.fetch(pretrained.LPIPS_ALEX))
    weights = {name.replace(".model.1.", "."): tensor for name, tensor in found.items()}
    if all(name.startswith("lin") for name in weights):  # the authors' file
        weights |= pretrained.read(pretrained.fetch(pretrained.ALEXNET))
    return weights
