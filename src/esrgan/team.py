"""Who takes part in a training: the networks, their optimizers and what they play for."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from esrgan import distributed
from esrgan.compiled import compile_to_train
from esrgan.config import Config, PretrainConfig
from esrgan.devices import DTYPES, layout, pick_device
from esrgan.discriminator import Discriminator
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.model_file import load_model
from esrgan.objectives import Objective, gan_objective, psnr_objective
from esrgan.players import EMA, Player
from esrgan.transplant import transplant
from esrgan.vgg import VGGFeatures
from esrgan.winograd_training import FrozenVGG, TrainedGenerator, learns_fast_here

ONE_PIXEL = 16
"""Side of patches of which the discriminator's last maps are one pixel, of which batch norm knows no variance."""


class Team(NamedTuple):
    """Who takes part in a stage, and what they play for."""

    players: dict[str, Player]
    ema: EMA | None
    objective: Objective
    engine: str
    """What computes: torch or winograd."""

    @property
    def result(self) -> Generator:
        """The network that is validated and saved: the average where there is one."""
        net = self.ema.net if self.ema else self.players["generator"].net
        assert isinstance(net, Generator)
        return net


def build_team(config: Config) -> Team:
    """The networks of a run at step 0, on their device; the seed and the options alone decide their weights."""
    torch.manual_seed(config.seed)
    device, dtype = _device(config), DTYPES[config.precision]
    net = (_first_generator(config) if isinstance(config, PretrainConfig) else load_model(config.init)).to(device)
    compile_to_train(net)
    fit = config.engine == "auto" and device.type == "cpu" and dtype == torch.float32 and learns_fast_here(net)
    engine = "winograd" if fit else "torch"
    player = partial(Player, config=config.optim, steps=config.steps, dtype=dtype)
    generator = player(net, run=TrainedGenerator(net) if engine == "winograd" else None)
    ema = EMA(net, Generator(net.config, start="paper").to(device), config.ema) if config.ema else None
    if isinstance(config, PretrainConfig):
        return Team({"generator": generator}, ema, psnr_objective(generator), engine)
    shape = config.discriminator
    seen = config.patch - (net.scale if config.weights.grid else 0)
    if shape.batch_norm and config.batch == 1 and seen <= ONE_PIXEL:
        raise EsrganError(
            f"batch norm of the discriminator needs more than one patch of {seen} pixels; use --batch 2 or more, or a"
            f" --patch above {config.patch - seen + ONE_PIXEL}"
        )
    network = distributed.synchronised(Discriminator(shape.channels, shape.batch_norm).to(device))
    optim = replace(config.optim, learning_rate=shape.learning_rate or config.optim.learning_rate)
    discriminator = player(network, config=optim)
    features = VGGFeatures(config.vgg, layers=config.weights.layers).to(device).to(memory_format=layout(device))
    seen_by = FrozenVGG(features) if engine == "winograd" else features
    objective = gan_objective(generator, discriminator, seen_by, config.weights)
    return Team({"generator": generator, "discriminator": discriminator}, ema, objective, engine)


def _device(config: Config) -> torch.device:
    """Where this process computes: on its own GPU where several share a machine."""
    device = pick_device(config.device)
    if distributed.size() > 1 and device.type == "mps":  # of which a machine has one, and gloo knows nothing
        return torch.device("cpu")
    if distributed.size() == 1 or device.type != "cuda" or device.index is not None:
        return device
    device = pick_device(f"cuda:{distributed.local_rank()}")
    torch.cuda.set_device(device)
    return device


def _first_generator(config: PretrainConfig) -> Generator:
    generator = Generator(config.generator, start=config.start)
    if config.init:
        transplant(config.init, generator)
    return generator
