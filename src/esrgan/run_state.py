"""The state from which a training resumes: how far it is, and the file that holds it with its checksum."""

import hashlib
import io
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esrgan.files import move, replacing

CHECKSUM = 32
"""Bytes of SHA-256 that a state file begins with."""


@dataclass
class Progress:
    """How far a run is; part of its state. What is counted stays on the device until somebody asks."""

    step: int = 0
    best: float | None = None
    """Score of the best model so far; larger is better."""
    score: str | None = None
    """Which one that is: psnr_y or lpips."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Sums of what is logged, since the last line of the log."""
    count: Tensor | int = 0
    """Steps in ``sums``."""
    skipped: Tensor | int = 0
    """Steps left out because something was not finite, in all."""
    streak: Tensor | int = 0
    """The same, in a row, up to now."""
    returns: int = 0
    """How often the run went back to a saved state; each halved the learning rate."""
    due: bool = False
    """Whether the validation of this step is still to be done."""
    data: str | None = None
    """Hash of the training pictures."""
    init: str | None = None
    """Hash of the model file that the run began from."""
    val: str | None = None
    """Hash of the validation pictures."""

    def add(self, step: int, losses: dict[str, Tensor], finite: Tensor) -> None:
        """Take in the losses of ``step``, without waiting for the device."""
        self.step, self.count, self.skipped = step, self.count + finite, self.skipped + ~finite
        self.streak = (self.streak + 1) * ~finite
        for name, loss in losses.items():
            counted = torch.where(finite, loss, 0)
            self.sums[name] = self.sums[name] + counted if name in self.sums else counted

    def take(self) -> dict[str, float]:
        """The mean losses since this was last asked; none if no step counted."""
        count = int(self.count)
        means = {name: total.item() / count for name, total in self.sums.items()} if count else {}
        self.sums, self.count = {}, 0
        return means


def write_state(path: Path, state: dict[str, Any], *, previous: Path | None = None) -> None:
    """Write ``path`` atomically; what it held before goes to ``previous``."""
    buffer = io.BytesIO()
    torch.save(canonical(state), buffer)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())
        if previous and path.exists():
            move(path, previous)


def read_state(path: Path) -> dict[str, Any] | None:
    """What ``write_state`` was given, on the CPU; none if the file is damaged."""
    content = path.read_bytes()
    if hashlib.sha256(content[CHECKSUM:]).digest() != content[:CHECKSUM]:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(content[CHECKSUM:]), map_location="cpu", weights_only=True)
    return state


def canonical(value: Any) -> Any:
    """``value`` with plain dicts and lists, equal strings one object, and tensors of their own on the CPU.

    Pickle writes an object it has met before as a reference; after this, equal states become equal bytes.
    """
    if isinstance(value, dict):
        return {canonical(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([canonical(item) for item in value])
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    return sys.intern(value) if isinstance(value, str) else value
