"""Before a long run: twenty real steps, and what they tell of the hours ahead."""

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from esrgan.config import RunConfig, TrainConfig
from esrgan.data import Patches, PhotoStore, to_unit
from esrgan.run_dir import settled
from esrgan.stages import cast, photos
from esrgan.training import train_steps

STEPS = 20
WARM_UP = 3  # steps that are not timed
LARGEST = 1024  # batch


def dry_run(config: RunConfig) -> Iterator[str]:
    """Take 20 steps of the run and say what they cost; nothing is written but the cache of decoded pictures."""
    config = settled(config)
    team = cast(config)
    device = team.players["generator"].parameters[0].device
    store = photos(config, team.result.scale)
    waited, worked = _time(config, store)
    seconds = waited + worked
    stage = 2 if isinstance(config, TrainConfig) else 1
    yield f"{len(store)} pictures, {device.type}, {config.precision}, batch {config.batch} x {config.accumulate}"
    hours = seconds * config.steps / 3600
    yield f"{1 / seconds:.3g} steps/s; stage {stage} takes about {hours:.3g} hours, validation apart"
    bound = "data" if waited > 0.2 * seconds else "compute"
    yield f"{bound}-bound: {waited / seconds:.0%} of the time is spent waiting for patches"
    yield f"memory at its peak: {_peak(device) / 2**30:.2f} GiB"
    yield _largest_batch(config, store, device)


def _time(config: RunConfig, store: PhotoStore, steps: int = STEPS) -> tuple[float, float]:
    """Seconds a step spends waiting for patches, and computing."""
    team = cast(config)
    device = team.players["generator"].parameters[0].device
    raw = Patches(store, patch=config.patch, seed=config.seed).ahead(1, steps, config.batch * config.accumulate)
    waits: list[float] = []

    def batches() -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        for _ in range(steps):
            start = time.perf_counter()
            step, lr, hr = next(raw)
            waits.append(time.perf_counter() - start)
            yield step, to_unit(lr, device), to_unit(hr, device)

    start = 0.0
    for step in train_steps(team.objective, team.players.values(), batches(), accumulate=config.accumulate):
        step.finite.item()  # wait for the device
        if step.number == min(WARM_UP, steps - 1):
            start, waits = time.perf_counter(), []
    count = max(1, steps - min(WARM_UP, steps - 1))
    waited = sum(waits) / count
    return waited, (time.perf_counter() - start) / count - waited


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _largest_batch(config: RunConfig, store: PhotoStore, device: torch.device) -> str:
    """The largest batch that fits, by trying on CUDA; elsewhere memory is the machine's own."""
    if device.type != "cuda":
        return f"largest batch: not tried on {device.type}, where all of the machine's memory would be used for it"
    fits = config.batch
    while fits < LARGEST:
        try:
            _time(replace(config, batch=2 * fits, accumulate=1), store, steps=2)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        fits *= 2
    return f"largest batch that fits (of {config.batch} and its doubles): {fits}"
