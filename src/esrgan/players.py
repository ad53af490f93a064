"""A player: a network with its optimizers and learning-rate schedule."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from esrgan.config import OptimConfig
from esrgan.devices import arithmetic, layout
from esrgan.distributed import average_
from esrgan.muon import Muon

ALIGNMENT = 64  # numbers; where each weight's gradient begins, for wide loads


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

    The gradients of all its weights lie in one flat tensor, so that averaging them over processes, measuring and
    clearing them are one operation each.

    Args:
        net: The network, already on its device.
        config: Its optimizer and schedule.
        steps: Length of the run, which the schedule depends on.
        dtype: Arithmetic of forward and backward; the weights stay fp32.
        run: What runs the network; none = itself.

    Attributes:
        device: Where the network is.
        slowdown: Factor on the schedule's learning rate.
    """

    def __init__(self, net: nn.Module, config: OptimConfig, *, steps: int, dtype: torch.dtype,
                 run: Callable[[Tensor], Tensor] | None = None) -> None:  # fmt: skip
        self.net = net.train()
        self.run = run or self.net
        self.config, self.steps, self.dtype, self.slowdown = config, steps, dtype, 1.0
        self.parameters = list(net.parameters())
        self.device = self.parameters[0].device
        net.to(memory_format=layout(self.device))
        cuda = self.device.type == "cuda"
        self._rate = torch.zeros((), device=self.device) if cuda else None  # where a recorded step reads it
        self.optimizers = _optimizers(net, config)
        self.gradient, self._views = _flat_gradient(self.parameters)
        self._clear()
        self._buffers = [buffer.clone() for buffer in net.buffers()]

    def __call__(self, x: Tensor) -> Tensor:
        with arithmetic(self.device, self.dtype):
            out = self.run(x.contiguous(memory_format=layout(self.device)))
        return cast(Tensor, out).float()

    def rate(self, number: int) -> float:
        """The learning rate of step ``number``."""
        return self.slowdown * rate(self.config, number, self.steps)

    def average_gradient(self) -> Tensor:
        """Average the gradient over all processes and clip it; gives its norm before clipping."""
        norm: Tensor = torch.linalg.vector_norm(average_(self.gradient))
        if self.config.clip:
            self.gradient *= (self.config.clip / (norm + 1e-6)).clamp(max=1)
        return norm

    def set_rate(self, number: int) -> None:
        """Let the coming ``step`` move the weights by the learning rate of step ``number``."""
        rate = self.rate(number)
        if self._rate is not None:
            self._rate.fill_(rate)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate if self._rate is None else self._rate

    @torch.no_grad()
    def step(self, finite: Tensor) -> None:
        """Move the weights and clear the gradient; where not ``finite``, change nothing.

        ``finite`` stays on the device: nobody waits to learn what it is.
        """
        for optimizer in self.optimizers:
            if _fuses(self.device.type):
                optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
                optimizer.step()
            elif finite:  # there Adam is not fused and knows no found_inf
                optimizer.step()
        for buffer, kept in zip(self.net.buffers(), self._buffers, strict=True):
            kept.copy_(torch.where(finite, buffer, kept))
            buffer.copy_(kept)
        self._clear()

    def _clear(self) -> None:
        self.gradient.zero_()
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.grad = view

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
            groups = optimizer.state_dict()["param_groups"]  # the saved ones may be another device's
            optimizer.load_state_dict(saved | {"param_groups": groups})
            for weight, kept in optimizer.state.items():  # laid out in memory as the weight is, wherever it was saved
                for name, value in kept.items():
                    if isinstance(value, Tensor) and value.shape == weight.shape:
                        kept[name] = torch.empty_like(weight).copy_(value)
        self._clear()
        self._buffers = [buffer.clone() for buffer in self.net.buffers()]


class EMA:
    """Exponential moving average of a network's weights (EMA), with a short memory while it is young."""

    def __init__(self, net: nn.Module, average: nn.Module, decay: float) -> None:
        self.source, self.net, self.decay = net, average.requires_grad_(False).eval(), decay
        self.net.to(memory_format=layout(next(net.parameters()).device))
        self.net.load_state_dict(net.state_dict())

    @torch.no_grad()
    def update(self, step: int, finite: Tensor) -> None:
        """Take in the weights after ``step``, unless that step was left out."""
        decay = min(self.decay, step / (step + 10))
        mine: list[Tensor] = list(self.net.parameters())
        theirs: list[Tensor] = list(self.source.parameters())
        ways = list(torch._foreach_sub(theirs, mine))
        torch._foreach_mul_(ways, finite * (1 - decay))
        torch._foreach_add_(mine, ways)
        for buffer, source in zip(self.net.buffers(), self.source.buffers(), strict=True):
            buffer.copy_(source)


def _flat_gradient(parameters: list[nn.Parameter]) -> tuple[Tensor, list[Tensor]]:
    """Zeros for the gradients of all ``parameters``, and each one's part, laid out in memory as the weight is."""
    lengths = [math.ceil(parameter.numel() / ALIGNMENT) * ALIGNMENT for parameter in parameters]
    flat = torch.zeros(sum(lengths), device=parameters[0].device)
    parts = torch.split(flat, lengths)
    return flat, [part.as_strided(p.shape, p.stride()) for part, p in zip(parts, parameters, strict=True)]


def _fuses(device_type: str) -> bool:
    """Whether torch's fused Adam, which leaves a step out by itself, runs there; a run may move between devices."""
    return device_type != "mps"


def _optimizers(net: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    matrices = []
    if config.algorithm == "muon":
        matrices = [p for name, p in net.named_parameters() if name.startswith("body.") and p.ndim == 4]
    chosen = {id(p) for p in matrices}
    rest = [p for p in net.parameters() if id(p) not in chosen]
    kind = rest[0].device.type
    adam = torch.optim.Adam(
        rest, lr=config.learning_rate, betas=config.betas, fused=_fuses(kind), capturable=kind == "cuda"
    )
    return [adam, Muon(matrices, lr=config.learning_rate)] if matrices else [adam]
