"""Kill a training at random moments, again and again, and compare what it leaves with an unbroken run, byte by byte.

    uv run python -m benchmarks.kills --kills 50

Each life of a run is a process of its own that ends by SIGKILL, or, one time in ten, by SIGTERM. In the end every file
of the two run folders must be equal, and the logs too but for their times and the lines that tell of the stops.
Not on Windows.
"""

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from cyclopts import App
from safetensors.torch import save_file

from esrgan.config import (
    Config,
    DiscriminatorConfig,
    GeneratorConfig,
    LossWeights,
    PretrainConfig,
    PretrainOptim,
    TrainConfig,
    TrainOptim,
)
from esrgan.generator import Generator
from esrgan.images import write_rgb
from esrgan.model_file import save_model
from esrgan.resize import resize
from esrgan.stages import pretrain, train
from esrgan.vgg import trunk

app = App(help=__doc__)

PASSING = {"lock", "lock.txt", "log.txt"}
"""Files that may differ, or be there or not."""
TOLD = ("resumed", "stopped by", "is damaged")


def material(folder: Path) -> None:
    """Write pictures, a stage-1 model and weights of a small VGG, made from noise."""
    torch.manual_seed(0)
    for name, count in (("photos", 6), ("val", 2)):
        for i in range(count):
            write_rgb(resize(torch.rand(3, 12, 16), 8).clamp(0, 1), folder / name / f"{i}.png")
    save_model(Generator(GeneratorConfig(channels=4, growth=4, blocks=1)), folder / "stage1.safetensors")
    layers = {f"features.{name}": tensor for name, tensor in trunk("conv1_2").state_dict().items()}
    save_file(layers, folder / "vgg.safetensors")


def configs(folder: Path, steps: int) -> dict[str, Config]:
    """A tiny run of each stage."""
    assert wait_for(life(lambda: material(folder))) == 0  # libvips' threads would not survive in our children
    made = {name: folder / name for name in ("photos", "val", "stage1.safetensors", "vgg.safetensors")}
    photos = (made["photos"],)
    runs: dict[str, Config] = {
        "pretrain": PretrainConfig(
            images=photos,
            generator=GeneratorConfig(channels=4, growth=4, blocks=1),
            optim=PretrainOptim(algorithm="muon", learning_rate=1e-3, warmup=10, decay=0.3, milestones=(), clip=1.0),
            accumulate=2,
        ),
        "train": TrainConfig(
            images=photos,
            init=made["stage1.safetensors"],
            vgg=made["vgg.safetensors"],
            weights=LossWeights(layers={"conv1_2": 1.0}, gan=0.1, colour=1.0, grid=1.0),
            discriminator=DiscriminatorConfig(channels=4, batch_norm=True),
            optim=TrainOptim(learning_rate=1e-3, milestones=(steps // 2,)),
        ),
    }
    return {name: replace(config, val=(made["val"],), cache=folder / "cache", steps=steps, batch=4, patch=32, ema=0.9,
                          precision="fp32", log_every=3, validate_every=10, save_every=7, device="cpu")
            for name, config in runs.items()}  # fmt: skip


def life(work: Callable[[], object]) -> int:
    """Do the work in a process of its own; gives its number."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        work()
        code = 0
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def wait_for(number: int) -> int:
    """The exit status of a process: negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def differing(one: Path, other: Path) -> list[str]:
    """The files in which two run folders differ."""
    names = {str(p.relative_to(f)) for f in (one, other) for p in f.rglob("*") if p.is_file()} - PASSING
    same = {"log.jsonl": log_lines, "config.toml": without_folder, "state-best.pt": Path.read_bytes}
    return sorted(
        name for name in names
        if not ((one / name).is_file() and (other / name).is_file())
        or same.get(name, Path.read_bytes)(one / name) != same.get(name, Path.read_bytes)(other / name)
    )  # fmt: skip


def log_lines(path: Path) -> list[dict[str, object]]:
    """The log without times, speeds and the lines about stops."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if not any(told in row.get("note", "") for told in TOLD)]
    return [{name: value for name, value in row.items() if name not in ("time", "steps_per_second")} for row in rows]


def without_folder(path: Path) -> str:
    """config.toml but for where the run lives."""
    return "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("run_dir"))


def run(config: Config) -> Path:
    """Train as the config says; gives the model file."""
    return train(config) if isinstance(config, TrainConfig) else pretrain(config)


def trial(name: str, config: Config, folder: Path, kills: int, chance: random.Random) -> list[str]:
    """One unbroken run and one with ``kills`` deaths; gives what differs."""
    whole, broken = (replace(config, run_dir=folder / name / kind / "run") for kind in ("whole", "broken"))
    start = time.perf_counter()
    assert wait_for(life(lambda: run(whole))) == 0, "the unbroken run failed"
    seconds = time.perf_counter() - start
    died, ended, lives = 0, False, 0
    while not ended:
        number = life(lambda: run(broken))
        lives += 1
        if died < kills:
            time.sleep(chance.uniform(0, max(0.4, 3 * seconds / kills)))
            os.kill(number, signal.SIGTERM if chance.random() < 0.1 else signal.SIGKILL)
        code = wait_for(number)
        died += code in (-signal.SIGKILL, -signal.SIGTERM, 130)
        ended = code == 0
        assert code in (0, -signal.SIGKILL, -signal.SIGTERM, 130), f"a resumed run failed with {code}"
        if ended and died < kills:  # too quick: begin again, the deaths count on
            assert not (found := differing(whole.run_dir, broken.run_dir)), found
            shutil.rmtree(broken.run_dir)
            ended = False
    print(f"{name}: {died} deaths in {lives} lives, {time.perf_counter() - start:.0f} s")
    return differing(whole.run_dir, broken.run_dir)


@app.default
def main(*, kills: int = 50, steps: int = 400, seed: int | None = None) -> int:
    """Run the trials of both stages.

    Args:
        kills: Deaths of each stage's run.
        steps: Of each run.
        seed: Of the moments; none = another each time.
    """
    seed = random.randrange(10**6) if seed is None else seed
    print(f"moments from seed {seed}")
    torch.set_num_threads(1)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name, config in configs(Path(folder), steps).items():
            failed += [f"{name}: {file} differs" for file in
                       trial(name, config, Path(folder), kills, random.Random(seed))]  # fmt: skip
    print("\n".join(failed) or "all files equal")
    return 1 if failed else 0


if __name__ == "__main__":
    app()
