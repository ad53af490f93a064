"""A GPU: seconds, megapixels and TFLOP a second, enlarging and training (stage 1); ours against plain torch.

    uv run python -m benchmarks.gpu --side 512 1024 --batch 64
    uv run python -m benchmarks.gpu --network lite --side 48 --batch 2 --device cpu --half bf16    # a trial without one

TFLOP are those of the network as it is written, one multiply-add being two; a training step has three times as many.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from cyclopts import App, Parameter
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Timing, save, show, take_turns
from benchmarks.inference import NETWORKS, steady
from esrgan.config import GeneratorConfig, PretrainOptim
from esrgan.devices import DTYPES, pick_precision
from esrgan.generator import Generator
from esrgan.objectives import psnr_objective
from esrgan.parity import made_picture
from esrgan.players import Player
from esrgan.steps import train_steps
from esrgan.upscaler import Upscaler

PATCH = 32  # LR pixels
Half = Literal["fp16", "bf16"]

app = App(help=__doc__)


@app.default
def main(
    *,
    network: str = "full",
    side: Annotated[list[int], Parameter(consume_multiple=True)] = [512, 1024],  # noqa: B006
    batch: int = 64,
    device: str = "cuda",
    half: Half = "fp16",
    rounds: int = 5,
    json: Path | None = None,
) -> None:
    """Measure NETWORK (lite, full) on pictures of SIDE x SIDE pixels, and a training step of BATCH patches.

    Args:
        network: Enlarges linearly, which takes as long as anything else.
        side: Sides of the LR picture.
        batch: Patches of 32 LR pixels a side in a step; 0 = no training.
        device: cuda, cuda:1, mps; cpu is for a trial.
        half: Arithmetic of inference.
        rounds: How often each way is timed.
        json: File for the figures.
    """
    torch.manual_seed(0)
    generator = steady(Generator(NETWORKS[network]).eval())
    place, results = torch.device(device), {}
    for pixels in side:
        torch.compiler.reset()  # else what comes is compiled for any size, or not at all
        picture = made_picture(pixels, pixels).to(place)
        ways = {name: partial(_done, place, run, picture) for name, run in _networks(generator, place, half).items()}
        flop = _flop(generator, picture.shape)
        title = f"{network}, {pixels} x {pixels}, {device}"
        timings = [_told(t, flop, picture[0, 0].numel() * generator.scale**2) for t in take_turns(ways, rounds=rounds)]
        show(title, timings)
        results[title] = timings
    if batch:
        flop = 3 * _flop(generator, torch.Size((batch, 3, PATCH, PATCH)))
        dtype = pick_precision("auto", place, training=True)
        steps = {"plain loop, fp32 NCHW": _plain_step(NETWORKS[network], batch, place),
                 f"esrgan ({dtype})": _our_step(NETWORKS[network], batch, place, dtype)}  # fmt: skip
        ways = {name: partial(_done, place, step) for name, step in steps.items()}
        title = f"{network}, a step of {batch} patches of {PATCH} x {PATCH}, {device}"
        results[title] = [_told(timing, flop) for timing in take_turns(ways, rounds=rounds)]
        show(title, results[title])
    save(results, json)


def _networks(generator: Generator, place: torch.device, name: Half) -> dict[str, Callable[[Tensor], object]]:
    half = DTYPES[name]

    def plain(layout: torch.memory_format, *, compiled: bool = False) -> Callable[[Tensor], object]:
        network: nn.Module = Generator(generator.config, start="paper").eval()
        network.load_state_dict(generator.state_dict())
        network = network.to(place, half).to(memory_format=layout)
        run = torch.compile(network) if compiled else network
        return torch.no_grad()(lambda picture: run(picture.to(half, memory_format=layout)))

    return {
        f"torch eager {name} NCHW": plain(torch.contiguous_format),
        f"torch eager {name} channels_last": plain(torch.channels_last),
        f"torch.compile {name} channels_last": plain(torch.channels_last, compiled=True),
        f"esrgan {name}": Upscaler(generator, device=str(place), precision=name),
        f"esrgan {name} --compile": Upscaler(generator, device=str(place), precision=name, compiled=True),
    }


def _plain_step(config: GeneratorConfig, batch: int, place: torch.device) -> Callable[[], object]:
    network = Generator(config).train().to(place)
    optimizer = torch.optim.Adam(network.parameters())
    lr, hr = _patches(network, batch, place)

    def step() -> None:
        optimizer.zero_grad()
        (network(lr) - hr).abs().mean().backward()
        optimizer.step()

    return step


def _our_step(config: GeneratorConfig, batch: int, place: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    network = Generator(config).to(place)
    player = Player(network, PretrainOptim(), steps=1_000_000, dtype=dtype)
    lr, hr = (image.contiguous(memory_format=torch.channels_last) for image in _patches(network, batch, place))
    steps = train_steps(psnr_objective(player), [player], ((number, lr, hr) for number in range(1, 1_000_000)))
    return partial(next, steps)


def _patches(network: Generator, batch: int, place: torch.device) -> tuple[Tensor, Tensor]:
    sides = PATCH, PATCH * network.scale
    return torch.rand(batch, 3, sides[0], sides[0], device=place), torch.rand(
        batch, 3, sides[1], sides[1], device=place
    )


def _done(place: torch.device, run: Callable[..., object], *arguments: Tensor) -> None:
    """Run, and wait for the device."""
    run(*arguments)
    if place.type != "cpu":
        torch.accelerator.synchronize(place)


def _flop(generator: Generator, shape: torch.Size) -> float:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = Generator(generator.config).to(torch.bfloat16)
        network(torch.empty(shape, dtype=torch.bfloat16))
    return float(counter.get_total_flops())


def _told(timing: Timing, flop: float, pixels: int = 0) -> Timing:
    speed = f"{flop / timing.seconds / 1e12:.2f} TFLOP/s"
    note = f"{pixels / timing.seconds / 1e6:.2f} MP/s out, {speed}" if pixels else speed
    return Timing(timing.name, timing.seconds, timing.ratio, note)


if __name__ == "__main__":
    app()
