"""Seconds on a CPU to enlarge one square picture: ours against the engines that pip installs, same weights.

    uv run --group bench python -m benchmarks.inference --network lite full --side 128 256 512

Peers that are not installed are left out and named. The first row is the network as Real-ESRGAN's script runs it.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import App, Parameter
from torch import Tensor

from benchmarks.harness import Timing, as_commands_do, pick_clock, save, show, take_turns
from benchmarks.peers import peers, write_files
from esrgan.config import GeneratorConfig
from esrgan.generator import Generator
from esrgan.parity import made_picture
from esrgan.upscaler import Upscaler

NETWORKS = {"lite": GeneratorConfig(blocks=6, channels=32, growth=16), "full": GeneratorConfig()}

app = App(help=__doc__)


@app.default
def main(
    *,
    network: Annotated[list[str], Parameter(consume_multiple=True)] = ["lite", "full"],  # noqa: B006
    side: Annotated[list[int], Parameter(consume_multiple=True)] = [128, 256, 512],  # noqa: B006
    rounds: int = 5,
    processor: bool = False,
    json: Path | None = None,
) -> None:
    """Measure NETWORK (lite, full) on pictures of SIDE x SIDE pixels.

    Args:
        network: Which networks; they enlarge linearly, which takes as long as anything else.
        side: Sides of the LR picture.
        rounds: How often each way is timed.
        processor: Count processor seconds of one thread, for a machine where other programs run.
        json: File for the figures.
    """
    results: dict[str, list[Timing]] = {}
    clock = pick_clock(processor=processor)
    for name in network:
        torch.manual_seed(0)
        generator = steady(Generator(NETWORKS[name]).eval())
        with tempfile.TemporaryDirectory() as folder:
            networks = _networks(generator, Path(folder))
            for pixels in side:
                picture = made_picture(pixels, pixels)
                ways = {title: partial(run, picture) for title, run in networks.items()}
                title = f"{name}, {pixels} x {pixels}"
                results[title] = take_turns(ways, rounds=rounds, clock=clock)
                show(title, results[title])
    save(results, json)


@torch.no_grad()
def steady(generator: Generator) -> Generator:
    """With weights that give a linear enlargement: noise would be taken for a fault of bf16 and redone in fp32."""
    generator.conv_body.weight[:3] = 0
    return generator


def _networks(generator: Generator, folder: Path) -> dict[str, Callable[[Tensor], object]]:
    write_files(generator, folder)
    first, *others = peers(folder, fixed=True).items()
    ours = Upscaler(generator, device="cpu")
    return {
        first[0]: first[1](),
        f"esrgan ({str(ours.dtype).removeprefix('torch.')})": as_commands_do(ours),
        "esrgan fp32": Upscaler(generator, device="cpu", precision="fp32"),
        **{name: load() for name, load in others},
    }


if __name__ == "__main__":
    app()
