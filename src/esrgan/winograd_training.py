"""Networks trained on a CPU in fp32 by Winograd's convolutions, forward and backward.

Features stay in the kernel's planes from a network's first convolution to its last.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from esrgan.convolutions import NEGATIVE_SLOPE
from esrgan.generator import RESIDUAL_SCALE, RRDB, Generator, is_plain, unshuffle
from esrgan.vgg import LAYERS, VGGFeatures
from esrgan.winograd_dense_block import DenseBlock
from esrgan.winograd_engine import misfit
from esrgan.winograd_job import GradientJob, Job
from esrgan.winograd_kernel import code, runs_fast_here
from esrgan.winograd_operations import Convolution, Frozen, Pooled, Repeated, Size, from_planes, to_planes


class TrainedGenerator:
    """Runs a generator of the classic variant so that it learns; (N, 3, H, W) -> (N, 3, scale * H, scale * W)."""

    def __init__(self, network: Generator) -> None:
        self.network = network
        for kind in (Job, GradientJob):  # while memory is free: where it lacks, LLVM would end the program
            code(kind)

    def __call__(self, lr: Tensor) -> Tensor:
        network, side = self.network, self.network.config.unshuffle
        height, width = (network.scale * length for length in lr.shape[-2:])
        x, size = to_planes(unshuffle(lr, side) if side > 1 else lr)
        x = first = _convolved(network.conv_first, x, size)
        for block in network.body:
            x = x + RESIDUAL_SCALE * _dense_blocks(cast(RRDB, block), x, size)
        x = first + _convolved(network.conv_body, x, size)
        for i, factor in enumerate(network.config.factors, 1):
            x, size = cast(Tensor, Repeated.apply(x, size, factor)), size.times(factor)
            x = _convolved(network.get_submodule(f"conv_up{i}"), x, size, NEGATIVE_SLOPE)
        x = _convolved(network.conv_hr, x, size, NEGATIVE_SLOPE)
        return from_planes(_convolved(network.conv_last, x, size), size, 3)[..., :height, :width]


def learns_fast_here(network: Generator) -> bool:
    """Whether this is a network and a CPU for it, and llvmlite is installed."""
    return is_plain(network) and misfit(network) is None and runs_fast_here()


class FrozenVGG:
    """What ``VGGFeatures`` gives, and the gradient to the picture.

    Transformed weights are kept: four times as much memory as the network's own, and again for the gradient.
    """

    def __init__(self, vgg: VGGFeatures) -> None:
        self.vgg = vgg
        layers = [module for module in vgg.features if isinstance(module, nn.Conv2d)]
        self.frozen = {  # what is wanted is taken before its activation
            layer: Frozen(layer, 1.0 if name in vgg.layers else 0.0)
            for name, layer in zip(LAYERS, layers, strict=False)
        }

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        x, size = to_planes((image - self.vgg.mean) / self.vgg.std)
        names, found = iter(LAYERS), {}
        for module in self.vgg.features:
            if isinstance(module, nn.Conv2d):
                frozen = self.frozen[module]
                x = cast(Tensor, Convolution.apply(x, size, frozen, frozen.slope, None, None))
                if (name := next(names)) in self.vgg.layers:
                    found[name] = from_planes(x, size, module.out_channels)
                    x = F.relu(x)
            elif isinstance(module, nn.MaxPool2d):
                x, size = cast(Tensor, Pooled.apply(x, size)), size.halved()
        return found


def _dense_blocks(block: RRDB, x: Tensor, size: Size) -> Tensor:
    for dense in (block.rdb1, block.rdb2, block.rdb3):
        layers = (dense.conv1, dense.conv2, dense.conv3, dense.conv4, dense.conv5)
        x = cast(Tensor, DenseBlock.apply(x, size, *(each for layer in layers for each in (layer.weight, layer.bias))))
    return x


def _convolved(layer: nn.Module, x: Tensor, size: Size, slope: float = 1.0) -> Tensor:
    return cast(Tensor, Convolution.apply(x, size, None, slope, layer.weight, layer.bias))
