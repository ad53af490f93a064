"""The log and the sample pictures once more, for TensorBoard (the extra ``tensorboard``)."""

from importlib.util import find_spec
from typing import Any

import torch

from esrgan.errors import EsrganError
from esrgan.extras import how_to_install
from esrgan.images import read_rgb
from esrgan.run_dir import RunDir
from esrgan.run_log import Row


class Board:
    """Writes every line of a run's log that it is called with to the folder ``tensorboard`` in the run folder.

    Raises:
        EsrganError: TensorBoard is not installed.
    """

    def __init__(self, run: RunDir) -> None:
        if find_spec("tensorboard") is None:
            raise EsrganError(f"--tensorboard needs TensorBoard: {how_to_install('tensorboard')}")
        self.run = run
        self._writer: Any = None
        self._newest = 0

    def __call__(self, row: Row) -> None:
        step = row["step"]
        if self._writer is None or step < self._newest:  # what was written of the steps to come does not count
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - seconds of imports

            self._writer = SummaryWriter(str(self.run.path / "tensorboard"), purge_step=step + ("note" in row))
        self._newest = step
        numbers = {f"{kind}/{name}": v for kind in ("losses", "validation") for name, v in row.get(kind, {}).items()}
        numbers |= {name: row.get(name) for name in ("learning_rate", "steps_per_second", "skipped")}
        for name, value in numbers.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)
        if "note" in row:
            self._writer.add_text("note", row["note"], step)
        picture = self.run.samples / f"step_{step:07}.png"
        if "validation" in row and picture.is_file():
            self._writer.add_image("bicubic, SR, HR", (read_rgb(picture) * 255).to(torch.uint8), step)
        self._writer.flush()
