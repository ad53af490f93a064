"""Optimizer steps of both stages: forward, backward and update, with gradient accumulation."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from esrgan import distributed
from esrgan.cuda_graph import Recorded, Work, cudnn_tuned
from esrgan.objectives import Objective
from esrgan.players import Player


class Step(NamedTuple):
    """One optimizer step."""

    number: int
    losses: dict[str, Tensor]
    """Each term of the loss, averaged over the accumulated batches and all processes; still on the device."""
    finite: Tensor
    """Whether every loss and gradient was finite, on the device; else nothing was changed by this step."""


def train_steps(
    objective: Objective,
    players: Iterable[Player],
    batches: Iterable[tuple[int, Tensor, Tensor]],
    *,
    accumulate: int = 1,
) -> Iterator[Step]:
    """Take one step for every (number, lr, hr) in ``batches``; each is split into ``accumulate`` equal parts.

    Gradients are averaged over the parts, so that 2 x 8 is 1 x 16 up to rounding where no term depends on the batch as
    a whole (in GAN training the relativistic mean, ``normalise``, batch norm and the shift of ``grid`` do), and over
    processes. One process on a CUDA device records the third step and replays it from then on; batches must be of one
    size there.
    """
    players = list(players)
    names: list[str] = []
    work: Work = partial(_work, objective, players, accumulate, names)
    if players[0].device.type != "cuda":
        run = work
    else:
        run = Recorded(work) if distributed.size() == 1 else cudnn_tuned()(work)
    for number, lr, hr in batches:
        torch.manual_seed(number)  # what is random within a step depends on the step alone, on every process alike
        for player in players:
            player.set_rate(number)
        losses, finite = run(lr, hr)
        yield Step(number, dict(zip(names, losses, strict=True)), finite)


def _work(
    objective: Objective, players: list[Player], accumulate: int, names: list[str], lr: Tensor, hr: Tensor
) -> tuple[Tensor, Tensor]:
    """All that a step does on the device: the losses, whose ``names`` are left in that list, and if all was finite."""
    sums: dict[str, Tensor] = {}
    for part in zip(lr.chunk(accumulate), hr.chunk(accumulate), strict=True):
        for terms in objective(*part):
            torch.stack(list(terms.values())).sum().div(accumulate).backward()  # type: ignore[no-untyped-call]
            for name, loss in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss.detach() / accumulate
    names[:] = sums
    losses = distributed.average_(torch.stack(list(sums.values())))
    norms = [player.average_gradient() for player in players]
    finite = torch.stack([losses.sum(), *norms]).isfinite().all()
    for player in players:
        player.step(finite)
    return losses, finite
