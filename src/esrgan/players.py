"""A player: a network with its optimizers and learning-rate schedule."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from esrgan.config import OptimConfig
from esrgan.muon import Muon


def rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of ``step`` (the first is 1) in a run of ``steps``."""
    factor = 0.5 ** sum(step > milestone for milestone in config.milestones)
    if config.warmup:
        factor *= min(1.0, step / config.warmup)
    if config.decay:
        factor *= min(1.0, (steps + 1 - step) / (steps * config.decay))
    return config.learning_rate * factor


class Player:
    """A network that learns; calling it runs the network in the run's arithmetic and gives fp32 back.

    Args:
        net: The network, already on its device.
        config: Its optimizer and schedule.
        steps: Length of the run, which the schedule depends on.
        dtype: Arithmetic of forward and backward; the weights stay fp32.
    """

    def __init__(self, net: nn.Module, config: OptimConfig, *, steps: int, dtype: torch.dtype) -> None:
        self.net = net.train().to(memory_format=torch.channels_last)
        self.config, self.steps, self.dtype = config, steps, dtype
        self.parameters = list(net.parameters())
        self.device_type = self.parameters[0].device.type
        self.optimizers = _optimizers(net, config)

    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype != torch.float32):
            out = self.net(x.contiguous(memory_format=torch.channels_last))
        return cast(Tensor, out).float()

    def step(self, number: int) -> Tensor:
        """Clip, move the weights as step ``number`` says, clear the gradients; gives the norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip or float("inf"))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(self.config, number, self.steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within it gradients pass through the network but do not reach its weights."""
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(True)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs of this player."""
        return {"net": self.net.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the player that gave ``state``."""
        self.net.load_state_dict(state["net"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


class Average:
    """Exponential moving average of a network's weights (EMA), with a short memory while it is young."""

    def __init__(self, net: nn.Module, average: nn.Module, decay: float) -> None:
        self.source, self.net, self.decay = net, average.requires_grad_(False).eval(), decay
        self.net.load_state_dict(net.state_dict())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step``."""
        decay = min(self.decay, step / (step + 10))
        torch._foreach_lerp_(list(self.net.parameters()), list(self.source.parameters()), 1 - decay)
        for mine, theirs in zip(self.net.buffers(), self.source.buffers(), strict=True):
            mine.copy_(theirs)


def _optimizers(net: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    matrices = []
    if config.algorithm == "muon":
        matrices = [p for name, p in net.named_parameters() if name.startswith("body.") and p.ndim == 4]
    chosen = {id(p) for p in matrices}
    rest = [p for p in net.parameters() if id(p) not in chosen]
    adam = torch.optim.Adam(rest, lr=config.learning_rate, betas=config.betas, fused=rest[0].device.type != "mps")
    return [adam, Muon(matrices, lr=config.learning_rate)] if matrices else [adam]
