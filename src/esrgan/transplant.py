"""The weights of one generator as the start of another, which may be wider or deeper or of another scale.

A larger network begins as nearly the same function: the channels that it has more of are read by nothing that was there
before (zeros, which training fills), and the blocks that it has more of pass on what they get, so that a long training
of a small network is not lost to a larger one. Source of the idea: Chen et al., Net2Net (arXiv 1511.05641); zeros
instead of their split channels need no symmetry broken.
"""

import math
import re
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from esrgan.config import GeneratorConfig
from esrgan.errors import EsrganError
from esrgan.generator import RRDB, Generator, calm
from esrgan.model_file import load_model

DENSE_LAYER = re.compile(r"rdb\d\.conv([2-5])\.weight$")


@torch.no_grad()
def transplant(path: Path, generator: Generator) -> None:
    """Give ``generator`` the weights of the model at ``path`` that it has room for; its others stay as they are.

    Raises:
        EsrganError: It is wider, or less than half of either network's weights are found in the other.
    """
    given = load_model(path)
    old, mine = given.state_dict(), generator.state_dict()
    shapes = given.config, generator.config
    fitting = {name: w for name, w in old.items() if name in mine and _fits(name, w, mine[name], *shapes)}
    wider = any(getattr(given.config, side) > getattr(generator.config, side) for side in ("channels", "growth"))
    if wider or given.config.plus != generator.config.plus:
        raise EsrganError(
            f"{path} {_shape(given.config)} does not fit into this run's network {_shape(generator.config)}"
        )
    placed = sum(weight.numel() for weight in fitting.values())
    sizes = [sum(weight.numel() for weight in weights.values()) for weights in (old, mine)]
    if placed < min(sizes) / 2:  # the last bias, of three numbers, fits everywhere
        raise EsrganError(
            f"{path} is another network than this run's: only {placed:,} of its {sizes[0]:,} weights fit; give"
            " the --generator options that `esrgan models show` tells of it, or leave --init out"
        )
    gain = _calmed(generator, len(given.body))
    for name, weight in fitting.items():
        rows = mine[name][: len(weight)]  # a view
        if weight.ndim < 4 or weight.shape == mine[name].shape:
            rows.copy_(weight)
        else:
            rows.zero_()
            rows[:, _inputs(name, weight.shape[1], *shapes)] = weight
    generator.conv_body.weight.div_(gain)  # which sees features as large as before


def _calmed(generator: Generator, blocks: int) -> float:
    """Let the blocks after the first ``blocks`` change little; gives by how much they enlarge features all the same."""
    return math.prod(calm(cast(RRDB, block)) for block in generator.body[blocks:])


def _shape(config: GeneratorConfig) -> str:
    return f"(channels {config.channels}, growth {config.growth}{', plus' if config.plus else ''})"


def _fits(name: str, old: Tensor, new: Tensor, old_shape: GeneratorConfig, new_shape: GeneratorConfig) -> bool:
    """Whether the new layer is the old one, or that one with more channels."""
    if old.shape[2:] != new.shape[2:] or any(a > b for a, b in zip(old.shape[:2], new.shape[:2], strict=True)):
        return False
    if name.startswith("conv_first"):  # reads pixels, and more of them where they are unshuffled
        return old.shape[1:] == new.shape[1:]
    if name.startswith("conv_up"):  # makes several channels of each where pixels are shuffled
        return len(old) * new_shape.channels == len(new) * old_shape.channels
    return True


def _inputs(name: str, count: int, old: GeneratorConfig, new: GeneratorConfig) -> Tensor:
    """Where the ``count`` channels that a layer of the old network reads stand among those that the new one's reads."""
    layer = DENSE_LAYER.search(name)
    if not layer:
        return torch.arange(count)
    earlier = (torch.arange(old.growth) + new.channels + i * new.growth for i in range(int(layer[1]) - 1))
    return torch.cat((torch.arange(old.channels), *earlier))
