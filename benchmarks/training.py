"""Seconds a training step takes on a CPU, both stages: ours against a plain loop as BasicSR writes it.

    uv run python -m benchmarks.training photos/train --vgg vgg19_features.safetensors

Data included: ours from the store of decoded pictures, theirs decoded in a worker process. Adam and EMA in both.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as our commands have it; the plain loop is as fast

import torch
from cyclopts import App, Parameter

from benchmarks.harness import Timing, as_commands_do, pick_clock, save, show, take_turns
from benchmarks.inference import NETWORKS
from benchmarks.plain_loop import Plain, PlainGan, batches
from esrgan.config import Config, DiscriminatorConfig, PretrainConfig, TrainConfig
from esrgan.data import Patches
from esrgan.discriminator import Discriminator
from esrgan.generator import Generator
from esrgan.model_file import save_model
from esrgan.run_dir import settled
from esrgan.stages import photo_store
from esrgan.steps import train_steps
from esrgan.team import build_team
from esrgan.vgg import VGGFeatures

MANY = 1_000_000

app = App(help=__doc__)


@app.default
def main(
    images: Annotated[list[Path], Parameter(consume_multiple=True)],
    *,
    vgg: Path | None = None,
    network: str = "lite",
    batch: int = 16,
    patch: int = 128,
    channels: int = 32,
    steps: int = 3,
    rounds: int = 5,
    processor: bool = False,
    stages: Annotated[list[int], Parameter(consume_multiple=True)] = [1, 2],  # noqa: B006
    json: Path | None = None,
) -> None:
    """Measure.

    Args:
        images: Photographs to train on.
        vgg: VGG19's weights for stage 2; none = from torch's cache, or fetched.
        network: lite or full.
        batch: Patches in a step.
        patch: Side of the HR patch.
        channels: Of the discriminator.
        steps: Timed together.
        rounds: How often each loop is timed.
        processor: Count processor seconds of one thread, for a machine where other programs run; the worker's are not.
        stages: Which.
        json: File for the figures.
    """
    results: dict[str, list[Timing]] = {}
    clock = pick_clock(processor=processor)
    torch.manual_seed(0)
    generator = Generator(NETWORKS[network])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:  # on Windows it holds files in use
        folder = Path(name)
        save_model(generator, folder / "init.safetensors")
        photos = tuple(images)
        configs: dict[int, Config] = {
            1: PretrainConfig(images=photos, generator=NETWORKS[network]),
            2: TrainConfig(images=photos, init=folder / "init.safetensors", vgg=vgg,
                           discriminator=DiscriminatorConfig(channels=channels)),
        }  # fmt: skip
        data = batches(images, patch=patch, batch=batch)
        plain: dict[int, Callable[[], Plain]] = {
            1: lambda: Plain(generator, data),
            2: lambda: PlainGan(generator, data, Discriminator(channels), VGGFeatures(vgg)),
        }
        for stage in stages:
            config = settled(
                replace(configs[stage], steps=MANY, batch=batch, patch=patch, cache=folder, ema=0.999, device="cpu")
            )
            title = f"stage {stage}, {network}, batch {batch}, HR patch {patch}: {steps} steps"
            results[title] = take_turns(
                {
                    "plain loop, fp32 NCHW": partial(_repeat, plain[stage](), steps),
                    f"esrgan ({config.precision})": as_commands_do(partial(_repeat, _ours(config), steps)),
                },
                rounds=rounds,
                clock=clock,
            )
            show(title, results[title])
    save(results, json)


def _ours(config: Config) -> Callable[[], object]:
    team = build_team(config)
    device = team.players["generator"].device
    patches = Patches(photo_store(config, team.result.scale), patch=config.patch, seed=0)
    batches = patches.batches(1, MANY, config.batch, device)
    steps = train_steps(team.objective, team.players.values(), batches)

    def run() -> None:
        step = next(steps)
        if team.ema:
            team.ema.update(step.number, step.finite)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def _repeat(way: Callable[[], object], times: int) -> None:
    for _ in range(times):
        way()


if __name__ == "__main__":
    app()
