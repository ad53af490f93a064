"""Before a long run: twenty real steps, and what they tell of the hours ahead."""

import os
from collections.abc import Iterator
from dataclasses import replace

import torch

from esrgan.config import Config
from esrgan.device_patches import patches_for
from esrgan.errors import EsrganError
from esrgan.lpips import LPIPS
from esrgan.memory import free_bytes, is_out_of_memory, peak_bytes
from esrgan.pace import WARM_UP, Pace
from esrgan.pairs import find_pairs
from esrgan.photo_store import PhotoStore
from esrgan.run_dir import RunDir
from esrgan.stages import enough_memory, photo_store, with_init_path
from esrgan.steps import train_steps
from esrgan.team import Team, build_team

STEPS = 20
LARGEST = 1024  # batch
GROWTH = 256 << 20  # bytes more than at the first batch, from which that of other batches can be told


def dry_run(config: Config) -> Iterator[str]:
    """Take 20 steps of the run and say what they cost; nothing is written but the cache of decoded pictures.

    What only the run itself would need is looked at too: its folder, --val and --lpips.

    Raises:
        EsrganError: As the run itself; or torchrun started this process.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise EsrganError("--dry-run measures one process; run it without torchrun")
    with enough_memory():
        yield from _dry_run(*RunDir.looked_at(with_init_path(config)))


def _dry_run(config: Config, done: int) -> Iterator[str]:
    team = build_team(config)
    for path in config.val:
        find_pairs(path, team.result.scale)
    if config.lpips:
        LPIPS(config.lpips)
    device = team.players["generator"].device
    store = photo_store(config, team.result.scale)
    pace = _time(team, config, store)
    stage = {"psnr": 1, "gan": 2}[config.stage]
    batch = f"batch {config.batch} x {config.accumulate}"
    yield f"{len(store)} pictures, {device.type}, {config.precision} by {team.engine}, {batch}"
    yield f"stage {stage}: {pace.sentence(device, max(0, config.steps - done))}"
    yield _largest_batch(team, config, store)


def _time(team: Team, config: Config, store: PhotoStore, steps: int = STEPS) -> Pace:
    """Take steps of a run that is not kept."""
    device = team.players["generator"].device
    patches = patches_for(store, patch=config.patch, seed=config.seed, device=device, jpeg=config.jpeg)
    batches = patches.batches(1, steps, config.batch * config.accumulate, device)
    warm_up = min(WARM_UP, steps - 1)
    pace = Pace(warm_up, steps - warm_up)
    for step in train_steps(team.objective, team.players.values(), pace.watch(batches), accumulate=config.accumulate):
        if team.ema:
            team.ema.update(step.number, step.finite)
        pace.stepped(step.finite)
    return pace


def _largest_batch(team: Team, config: Config, store: PhotoStore) -> str:
    """The largest batch that fits: on CUDA by trying, on a CPU by how memory grows."""
    device = team.players["generator"].device
    if device.type == "cpu":
        return _batch_by_growth(team, config, store)
    if device.type != "cuda":
        return f"largest batch: not tried on {device.type}, where all of the machine's memory would be used for it"
    fits = config.batch
    while fits < LARGEST:
        try:
            _time(team, replace(config, batch=2 * fits, accumulate=1), store, steps=2)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            break
        fits *= 2
    return f"largest batch that fits (of {config.batch} and its doubles): {_number(fits)}"


def _number(fits: int) -> str:
    return f"{fits} or more" if fits >= LARGEST else str(fits)


def _batch_by_growth(team: Team, config: Config, store: PhotoStore) -> str:
    """Too much of the machine's memory would end the program, so that only batches which surely fit are tried."""
    device = team.players["generator"].device
    start, free = peak_bytes(device), free_bytes()
    if start is None or free is None:
        return "largest batch: not known, as this system does not tell how much memory is free"
    tried, grown = config.batch, 0
    while tried < LARGEST and grown < GROWTH and start + 2 * grown < free:
        tried *= 2
        _time(team, replace(config, batch=tried, accumulate=1), store, steps=2)
        grown = (peak_bytes(device) or 0) - start
    fits = config.batch
    while fits < LARGEST and (2 * fits <= tried or (2 * fits - config.batch) * grown < (tried - config.batch) * free):
        fits *= 2
    measured = f"of {config.batch} and its doubles, by the memory that {tried} takes"
    return f"largest batch that fits ({measured}): {_number(fits)}"
