"""How a run is validated: scores of the network so far on whole pictures, and crops for the eye."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from esrgan.benchmark import Bicubic, Pair, score
from esrgan.generator import Generator
from esrgan.images import write_rgb
from esrgan.metrics import LPIPS
from esrgan.run_dir import RunDir
from esrgan.tiling import tiled
from esrgan.training import Scores

SAMPLES = 4  # validation pictures of which a crop is kept
SAMPLE_SIDE = 192  # of that crop, HR pixels
TILE, OVERLAP = 768, 32  # LR pixels: benchmark pictures go through whole, photographs of any size fit into memory


class Validation:
    """Scores ``net`` on ``pairs``; ``choose`` makes of the scores the number by which the best model is chosen.

    Attributes:
        newest: The last scores found.
    """

    def __init__(self, run: RunDir, net: Generator, pairs: Sequence[Pair], *, dtype: torch.dtype, lpips: LPIPS | None,
                 choose: Callable[[dict[str, float | None]], float]) -> None:  # fmt: skip
        self.run, self.net, self.pairs, self.dtype, self.lpips, self.choose = run, net, pairs, dtype, lpips, choose
        self.device = next(net.parameters()).device
        self.newest: dict[str, Any] = {}

    def __call__(self, step: int, stopped: Callable[[], bool]) -> Scores | None:
        """Scores of the network as it is; none where ``stopped`` came true between two pictures."""
        if not any("bicubic" in row for row in self.run.rows()):
            self.run.log({"step": step, "bicubic": self._bicubic()})
        was_training = self.net.training
        self.net.eval()
        rows: list[dict[str, float | None]] = []
        samples: list[Tensor] = []
        for pair in self.pairs:
            if stopped():
                self.net.train(was_training)
                return None
            scores, sr = self._scored(self._network, pair)
            rows.append(scores)
            if len(samples) < SAMPLES:
                samples.append(_sample(pair, sr))
        self.net.train(was_training)
        write_rgb(torch.cat(samples, dim=1), self.run.samples / f"step_{step:07}.png")
        found = _means(rows)
        self.newest = {**found, "pictures": len(rows)}
        return Scores(found, self.choose(found))

    def _bicubic(self) -> dict[str, float | None]:
        return _means([self._scored(Bicubic(self.net.scale), pair)[0] for pair in self.pairs])

    def _network(self, lr: Tensor) -> Tensor:
        def run(tile: Tensor) -> Tensor:
            with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
                return self.net(tile.contiguous(memory_format=torch.channels_last)).float().clamp(0, 1)  # type: ignore[no-any-return]

        return tiled(run, lr, scale=self.net.scale, tile=TILE, overlap=OVERLAP)

    @torch.inference_mode()
    def _scored(
        self, model: Callable[[Tensor], Tensor] | nn.Module, pair: Pair
    ) -> tuple[dict[str, float | None], Tensor]:
        lr, hr = pair.lr[None].to(self.device), pair.hr[None].to(self.device)
        sr = model(lr)
        return score(sr, hr, border=self.net.scale, lpips=self.lpips, grey=pair.grey), sr[0].cpu()


def _means(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in rows[0]:
        known = [value for row in rows if (value := row[name]) is not None and value != float("inf")]
        means[name] = sum(known) / len(known) if known else None
    return means


def _sample(pair: Pair, sr: Tensor) -> Tensor:
    """Bicubic, SR and HR of the centre of a picture, side by side."""
    bicubic = Bicubic(pair.hr.shape[-1] // pair.lr.shape[-1])(pair.lr[None])[0]
    side = min(SAMPLE_SIDE, *pair.hr.shape[1:])
    top, left = ((length - side) // 2 for length in pair.hr.shape[1:])
    row = torch.ones(3, SAMPLE_SIDE, 3 * SAMPLE_SIDE)
    for i, image in enumerate((bicubic, sr, pair.hr)):
        row[:, :side, i * SAMPLE_SIDE : i * SAMPLE_SIDE + side] = image[:, top : top + side, left : left + side]
    return row
