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
STEPS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring every singular value near 1 by Newton-Schulz iteration; (N, rows, columns) in and out."""
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if x.is_cuda:  # as Jordan has it; elsewhere it is no slower in full
        x = x.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return cast(Tensor, (x.mT if tall else x).to(matrices.dtype))


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for convolution weights, (out, in, height, width) each.

    Attributes:
        found_inf: 1 where the step is to be left out, else 0, on the weights' device; as in torch's fused Adam.
    """

    found_inf: Tensor | None = None

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
            for weights in by_shape.values():
                self._move(weights, group["lr"], group["momentum"])

    def _move(self, weights: list[Tensor], learning_rate: float, momentum: float) -> None:
        """Move weights of one shape."""
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        gradients = torch.stack([cast(Tensor, w.grad) for w in weights])
        before = torch.stack(momenta)
        after = before.lerp(gradients, 1 - momentum)
        flat = gradients.lerp(after, momentum).flatten(2)
        scale = 0.2 * max(flat.shape[1:]) ** 0.5
        moves = orthogonalise(flat).view_as(gradients) * (-learning_rate * scale)
        if self.found_inf is not None:
            left_out = self.found_inf > 0
            after, moves = torch.where(left_out, before, after), torch.where(left_out, 0, moves)
        torch._foreach_copy_(momenta, list(after))
        torch._foreach_add_(weights, list(moves))
