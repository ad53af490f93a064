"""Muon: momentum whose every update is made orthogonal.

Source: Keller Jordan et al. 2024, with the update's scale of Liu et al. 2025 (arXiv 2502.16982), which lets it share
Adam's learning rate. ``torch.optim.Muon`` takes matrices only; here convolutions are flattened to (out, in * 9) and
equal shapes are processed as one batch.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring every singular value near 1 by Newton-Schulz iteration; (N, rows, columns) in and out."""
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return cast(Tensor, x.mT if tall else x)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for convolution weights, (out, in, height, width) each."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - the base class has it
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for shape, weights in by_shape.items():
                momenta = [self.state[w].setdefault("momentum", torch.zeros_like(w)) for w in weights]
                gradients = [w.grad for w in weights]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                updates = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"])).flatten(2)
                rows, columns = updates.shape[1:]
                moves = orthogonalise(updates).view(-1, *shape)
                scale = 0.2 * max(rows, columns) ** 0.5
                torch._foreach_add_(weights, list(moves), alpha=-group["lr"] * scale)
