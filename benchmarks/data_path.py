"""Augmented training patch pairs a second, in float32, that one core takes from the store, against decoding files.

    uv run python -m benchmarks.data_path photos/train

Processor seconds are counted, so that other programs on the machine do not change the figures.
"""

import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cyclopts import App

from benchmarks.harness import save, show, take_turns
from benchmarks.plain_loop import PerItem
from esrgan.data import Patches, to_unit
from esrgan.photo_store import PhotoStore

app = App(help=__doc__)


@app.default
def main(
    images: list[Path],
    *,
    patch: int = 128,
    batch: int = 64,
    batches: int = 30,
    rounds: int = 5,
    json: Path | None = None,
) -> None:
    """Measure.

    Args:
        images: Photographs: folders or files.
        patch: Side of the HR patch; the LR one is a quarter of it.
        batch: Pairs cut together.
        batches: How many of these a round cuts.
        rounds: How often each way is timed.
        json: File for the figures.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # on Windows it holds files in use
        patches = Patches(PhotoStore.of(images, scale=4, patch=patch, cache=Path(folder)), patch=patch, seed=0)
        plain = PerItem(images, patch=patch)
        few = max(1, batch * batches // 100)
        ways = {
            "a file decoded for each": partial(_take, plain, few),
            "from the store": partial(_cut, patches, batch, batches),
        }
        counts = (few, batch * batches)
        timings = take_turns(ways, rounds=rounds, clock=time.process_time)
    speeds = [count / timing.seconds for count, timing in zip(counts, timings, strict=True)]
    timings = [
        replace(timing, ratio=speed / speeds[0], note=f"{speed:,.0f} pairs/s")
        for timing, speed in zip(timings, speeds, strict=True)
    ]
    title = f"LR and HR patches of {patch // 4} and {patch} pixels, one core"
    show(title, timings)
    save({title: timings}, json)


def _take(plain: PerItem, count: int) -> None:
    for i in np.random.default_rng(0).integers(0, len(plain), count):
        plain[int(i)]


def _cut(patches: Patches, batch: int, batches: int) -> None:
    for step in range(1, batches + 1):
        for image in patches(step, batch):
            to_unit(image, "cpu")


if __name__ == "__main__":
    app()
