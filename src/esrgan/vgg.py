"""Features of VGG19, the measure of the perceptual loss.

Source: Simonyan and Zisserman (arXiv 1409.1556); taken before the activation, as in ESRGAN, section 3.3.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from esrgan import pretrained
from esrgan.errors import EsrganError

STAGES = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions and channels between two poolings
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LAYERS = tuple(f"conv{i}_{j}" for i, (convs, _) in enumerate(STAGES, 1) for j in range(1, convs + 1))


class VGGFeatures(nn.Module):
    """VGG19 up to the deepest layer asked for: RGB in [0, 1], (N, 3, H, W) -> {layer: features before its ReLU}.

    Frozen: gradient flows to the image, never to the weights. H and W must be at least 16 for conv5_4.

    The weights are torchvision's, used as they are: the paper's loss weight of 1 for conv5_4 is meant for them. The
    features of Simonyan and Zisserman's original file are about 12 times larger there; in a file made from it, divide
    conv5_4 by 12.

    Args:
        weights: A ``.safetensors`` or ``.pth`` file with torchvision's names (``features.0.weight``, ...); without one,
            torchvision's own file is taken from torch's cache or downloaded into it.
        layers: ``conv1_1`` to ``conv5_4``.

    Raises:
        EsrganError: No such layer, or weights that cannot be had or do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path | str | None = None, layers: Iterable[str] = ("conv5_4",)) -> None:
        super().__init__()
        self.layers = frozenset(layers)
        if not self.layers or not self.layers <= set(LAYERS):
            unknown = ", ".join(sorted(self.layers - set(LAYERS))) or "none"
            raise EsrganError(f"VGG layers must be some of {', '.join(LAYERS)}; got {unknown}")
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.features = trunk(deepest=max(self.layers, key=LAYERS.index))
        path = weights or pretrained.fetch(pretrained.VGG19)
        shapes = {name: tensor.shape for name, tensor in self.state_dict().items()}
        self.load_state_dict(pretrained.pick(pretrained.read(path), shapes, path))
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = (image - self.mean) / self.std
        names = iter(LAYERS)
        found = {}
        for module in self.features:
            x = module(x)
            if isinstance(module, nn.Conv2d) and (name := next(names)) in self.layers:
                found[name] = x
        return found


def trunk(deepest: str) -> nn.Sequential:
    """The layers in torchvision's order, so that their numbers agree, up to the convolution ``deepest``."""
    modules: list[nn.Module] = []
    inputs = 3
    for stage, (convs, channels) in enumerate(STAGES, 1):
        for i in range(1, convs + 1):
            modules.append(nn.Conv2d(inputs, channels, 3, padding=1))
            if f"conv{stage}_{i}" == deepest:
                return nn.Sequential(*modules)
            modules.append(nn.ReLU())
            inputs = channels
        modules.append(nn.MaxPool2d(2))
    raise AssertionError(deepest)
