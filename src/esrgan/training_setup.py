"""What a training is made of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from esrgan import distributed
from esrgan.config import Config
from esrgan.data import Patches, share_of_batch
from esrgan.objectives import Objective
from esrgan.players import EMA, Player
from esrgan.run_log import Row


class Scores(NamedTuple):
    """What a validation found."""

    scores: dict[str, float | None]
    value: float
    """The one number by which the best model is chosen, larger is better; NaN if its pictures are not finite."""


Validate = Callable[[int, Callable[[], bool]], Scores | None]
"""(step, shall it stop?) -> scores, or none if it was stopped."""


@dataclass(kw_only=True)
class Setup:
    """All that takes part in a training."""

    players: dict[str, Player]
    """Who learns; the generator comes first."""
    ema: EMA | None
    """Average of the generator's weights, if one is kept."""
    objective: Objective
    patches: Patches
    validate: Validate | None
    bicubic: Callable[[], dict[str, float | None]] | None = None
    """Gives the scores of bicubic enlargement on the validation pictures."""
    save_models: Callable[[int, bool], None]
    """(step, is it the best so far) -> writes the model file."""
    score: str = "psnr_y"
    """The score that chooses the best model."""
    init: str | None = None
    """Hash of the model file that the run begins from."""
    val: str | None = None
    """Hash of the validation pictures; only the first process has them."""
    references: dict[str, list[Row]] = field(default_factory=dict)
    """Logs of shipped runs, to hold this one against."""
    watch: Callable[[Row], None] = lambda _: None
    """Sees every line of the log, to pass it on."""

    def batches(self, config: Config, first: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(step, lr, hr) from step ``first`` to the last; this process's share."""
        rows = share_of_batch(config.batch, config.accumulate, distributed.rank(), distributed.size())
        count, device = config.batch * config.accumulate, self.players["generator"].device
        return self.patches.batches(first, config.steps, count, device, rows)
