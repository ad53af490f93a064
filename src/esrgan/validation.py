"""How a run is validated: scores of the network so far on whole pictures, and crops for the eye."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esrgan.benchmark import score
from esrgan.compiled import as_written
from esrgan.data import to_unit
from esrgan.devices import arithmetic, layout
from esrgan.generator import Generator
from esrgan.images import write_rgb
from esrgan.lpips import LPIPS
from esrgan.pairs import Pair
from esrgan.resize import quantise
from esrgan.stand_ins import Bicubic
from esrgan.tiling import tiled
from esrgan.training_setup import Scores
from esrgan.winograd_engine import Winograd

SAMPLES = 4  # validation pictures of which a crop is kept
SAMPLE_SIDE = 192  # of that crop, HR pixels
TILE, OVERLAP = 768, 32  # LR pixels: benchmark pictures go through whole, photographs of any size fit into memory


class Validation:
    """Scores ``net`` on ``pairs`` and writes crops of some to the folder ``samples``.

    ``choose`` makes of the scores the number by which the best model is chosen; with ``winograd`` our own convolutions
    compute.

    Attributes:
        digest: Hash of the pictures.
        newest: The last scores found.
    """

    def __init__(self, samples: Path, net: Generator, pairs: Iterable[Pair], *, dtype: torch.dtype, lpips: LPIPS | None,
                 choose: Callable[[dict[str, float | None]], float], winograd: bool = False) -> None:  # fmt: skip
        self.samples, self.net, self.dtype, self.lpips, self.choose = samples, net, dtype, lpips, choose
        self.pairs = [pair._replace(lr=_to_bytes(pair.lr), hr=_to_bytes(pair.hr)) for pair in pairs]
        self.digest = _digest(self.pairs)
        self.device = next(net.parameters()).device
        self.newest: dict[str, Any] = {}
        self.winograd = winograd
        self.run: Callable[[Tensor], Tensor] = self._by_torch

    def __call__(self, step: int, stopped: Callable[[], bool]) -> Scores | None:
        """Scores of the network as it is, NaN if it diverged; none where ``stopped`` came true between two pictures."""
        was_training = self.net.training
        self.net.eval()
        self.run = partial(Winograd(self.net), dtype=torch.float32) if self.winograd else self._by_torch
        try:
            return self._validated(step, stopped)
        finally:
            self.run = self._by_torch  # the other holds weights that will be old
            self.net.train(was_training)

    def _validated(self, step: int, stopped: Callable[[], bool]) -> Scores | None:
        rows: list[dict[str, float | None]] = []
        crops: list[Tensor] = []
        for pair in self.pairs:
            if stopped():
                return None
            scores, sr = self._scored(self._network, pair)
            if not sr.isfinite().all():
                return Scores({}, math.nan)
            rows.append(scores)
            if len(crops) < SAMPLES:
                crops.append(_sample(pair, sr))
        write_rgb(torch.cat(crops, dim=1), self.samples / f"step_{step:07}.png")
        found = _means(rows)
        self.newest = {**found, "pictures": len(rows)}
        return Scores(found, self.choose(found))

    def bicubic(self) -> dict[str, float | None]:
        """Scores of bicubic enlargement, to hold the network's against."""
        return _means([self._scored(Bicubic(self.net.scale), pair)[0] for pair in self.pairs])

    def _network(self, lr: Tensor) -> Tensor:
        return tiled(self.run, lr, scale=self.net.scale, tile=TILE, overlap=OVERLAP)

    def _by_torch(self, tile: Tensor) -> Tensor:
        with arithmetic(self.device, self.dtype), as_written(self.device):
            return self.net(tile.contiguous(memory_format=layout(tile.device))).float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def _scored(
        self, model: Callable[[Tensor], Tensor] | nn.Module, pair: Pair
    ) -> tuple[dict[str, float | None], Tensor]:
        lr, hr = to_unit(pair.lr[None], self.device), to_unit(pair.hr[None], self.device)
        sr = model(lr)
        return score(sr, hr, border=self.net.scale, lpips=self.lpips, grey=pair.grey), sr[0].cpu()


def _means(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in rows[0]:
        known = [value for row in rows if (value := row[name]) is not None and value != float("inf")]
        means[name] = sum(known) / len(known) if known else None
    return means


def _to_bytes(image: Tensor) -> Tensor:
    return (quantise(image) * 255).round().to(torch.uint8)


def _digest(pairs: Sequence[Pair]) -> str:
    found = hashlib.sha256()
    for pair in pairs:
        for image in (pair.lr, pair.hr):
            found.update(f"{tuple(image.shape)}".encode())
            found.update(image.numpy().tobytes())
    return found.hexdigest()


def _sample(pair: Pair, sr: Tensor) -> Tensor:
    """Bicubic, SR and HR of the centre of a picture, side by side."""
    lr, hr = to_unit(pair.lr[None], "cpu"), to_unit(pair.hr[None], "cpu")[0]
    bicubic = Bicubic(hr.shape[-1] // lr.shape[-1])(lr)[0]
    side = min(SAMPLE_SIDE, *hr.shape[1:])
    top, left = ((length - side) // 2 for length in hr.shape[1:])
    row = torch.ones(3, SAMPLE_SIDE, 3 * SAMPLE_SIDE)
    for i, image in enumerate((bicubic, sr, hr)):
        row[:, :side, i * SAMPLE_SIDE : i * SAMPLE_SIDE + side] = image[:, top : top + side, left : left + side]
    return row
