"""A GPU: seconds, megapixels and TFLOP a second, enlarging and training (stage 1); ours against plain torch.

    uv run python -m benchmarks.gpu --side 512 1024 --batch 64
    uv run python -m benchmarks.gpu --network lite --side 48 --batch 2 --device cpu --half bf16    # a trial without one

TFLOP are those of the network as it is written, one multiply-add being two; a training step has three times as many. A
way is run several times between two looks at the clock. A peer that runs out of memory is left out and named.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from cyclopts import App, Parameter
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Timing, save, show, take_turns
from benchmarks.inference import NETWORKS, steady
from benchmarks.training import MANY
from esrgan.compiled import compile_to_train
from esrgan.config import GeneratorConfig, PretrainOptim
from esrgan.cuda_graph import WARM_UP, cudnn_tuned
from esrgan.devices import DTYPES, pick_precision
from esrgan.generator import Generator
from esrgan.memory import is_out_of_memory
from esrgan.objectives import psnr_objective
from esrgan.parity import made_picture
from esrgan.players import Player
from esrgan.steps import train_steps
from esrgan.upscaler import Upscaler

PATCH = 32  # LR pixels
SECONDS = 0.5  # that a way is run between two looks at the clock
Half = Literal["fp16", "bf16"]
Way = Callable[[], object]

app = App(help=__doc__)


@app.default
def main(
    *,
    network: str = "full",
    side: Annotated[list[int], Parameter(consume_multiple=True)] = [512, 1024],  # noqa: B006
    batch: int = 64,
    device: str = "cuda",
    half: Half = "fp16",
    peer_compiled: bool = True,
    kernels: int = 12,
    rounds: int = 5,
    json: Path | None = None,
) -> None:
    """Measure NETWORK (lite, full) on pictures of SIDE x SIDE pixels, and a training step of BATCH patches.

    Args:
        network: Enlarges linearly, which takes as long as anything else.
        side: Sides of the LR picture; none = no enlarging.
        batch: Patches of 32 LR pixels a side in a step; 0 = no training.
        device: cuda, cuda:1, mps; cpu is for a trial.
        half: Arithmetic of inference.
        peer_compiled: Measure ``torch.compile`` of the whole network too, which takes minutes.
        kernels: How many of the kernels that take most of our step's time are named.
        rounds: How often each way is timed.
        json: File for the figures.
    """
    torch.manual_seed(0)
    generator = steady(Generator(NETWORKS[network]).eval())
    place = torch.device(device)
    results: dict[str, list[Timing]] = {}
    for pixels in side:
        torch.compiler.reset()  # else what comes is compiled for any size, or not at all
        picture = made_picture(pixels, pixels).to(place)
        ways = {name: partial(run, picture) for name, run in _networks(generator, place, half, peer_compiled).items()}
        title = f"{network}, {pixels} x {pixels}, {device}"
        flop = _flop(generator, picture.shape)
        results[title] = _measured(ways, place, rounds, flop, picture[0, 0].numel() * generator.scale**2)
        show(title, results[title])
        save(results, json)
    if batch:
        dtype = pick_precision("auto", place, training=True)
        steps = {
            "plain loop, fp32 NCHW": _plain_step(NETWORKS[network], batch, place),
            f"plain loop, {_name(dtype)} autocast, NCHW": _plain_step(NETWORKS[network], batch, place, dtype),
            f"esrgan {_name(dtype)}": _our_step(NETWORKS[network], batch, place, dtype),
        }
        title = f"{network}, a step of {batch} patches of {PATCH} x {PATCH}, {device}"
        flop = 3 * _flop(generator, torch.Size((batch, 3, PATCH, PATCH)))
        results[title] = _measured(steps, place, rounds, flop)
        show(title, results[title])
        if place.type == "cuda":
            _profile(list(steps.values())[-1], kernels)
    save(results, json)


def _measured(ways: Mapping[str, Way], place: torch.device, rounds: int, flop: float, pixels: int = 0) -> list[Timing]:
    """Timings of one run each, of those ways that there is memory for."""
    repeats: dict[str, int] = {}
    for name, way in ways.items():
        try:
            for _ in range(WARM_UP + 2):  # what comes first is compiled, tuned or recorded
                _done(place, way, 1)
            start = time.perf_counter()
            _done(place, way, 1)
            repeats[name] = max(1, round(SECONDS / (time.perf_counter() - start)))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            print(f"left out: {name}, out of memory")
    timings = take_turns(
        {name: partial(_done, place, ways[name], count) for name, count in repeats.items()}, rounds=rounds
    )
    first = next(iter(repeats.values()))
    each = [replace(t, seconds=t.seconds / repeats[t.name], ratio=t.ratio * repeats[t.name] / first) for t in timings]
    return [replace(timing, note=_told(timing.seconds, flop, pixels)) for timing in each]


def _networks(
    generator: Generator, place: torch.device, name: Half, peer_compiled: bool
) -> dict[str, Callable[[Tensor], object]]:
    half = DTYPES[name]

    def plain(
        layout: torch.memory_format, *, compiled: bool = False, tuned: bool = False
    ) -> Callable[[Tensor], object]:
        network: nn.Module = Generator(generator.config, start="paper").eval()
        network.load_state_dict(generator.state_dict())
        network = network.to(place, half).to(memory_format=layout)
        run = torch.compile(network) if compiled else network

        @torch.inference_mode()
        def enlarge(picture: Tensor) -> object:
            with cudnn_tuned() if tuned else nullcontext():
                return run(picture.to(half, memory_format=layout))

        return enlarge

    ways: dict[str, Callable[[Tensor], object]] = {
        f"torch eager {name} NCHW": plain(torch.contiguous_format),
        f"torch eager {name} channels_last": plain(torch.channels_last),
        f"torch eager {name} channels_last, cudnn.benchmark": plain(torch.channels_last, tuned=True),
        f"esrgan {name}, short jobs": Upscaler(generator, device=str(place), precision=name),
        f"esrgan {name}, long jobs and --compile": Upscaler(
            generator, device=str(place), precision=name, compiled=True
        ),
    }
    if peer_compiled:
        ways[f"torch.compile {name} channels_last"] = plain(torch.channels_last, compiled=True)
    return ways


def _plain_step(config: GeneratorConfig, batch: int, place: torch.device, dtype: torch.dtype = torch.float32) -> Way:
    network = Generator(config).train().to(place)
    optimizer = torch.optim.Adam(network.parameters())
    lr, hr = _patches(network, batch, place)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(place.type, dtype, enabled=dtype != torch.float32):
            sr = network(lr)
        (sr.float() - hr).abs().mean().backward()
        optimizer.step()

    return step


def _our_step(config: GeneratorConfig, batch: int, place: torch.device, dtype: torch.dtype) -> Way:
    network = Generator(config).to(place)
    compile_to_train(network)
    player = Player(network, PretrainOptim(), steps=MANY, dtype=dtype)
    lr, hr = (image.contiguous(memory_format=torch.channels_last) for image in _patches(network, batch, place))
    steps = train_steps(psnr_objective(player), [player], ((number, lr, hr) for number in range(1, MANY)))
    return partial(next, steps)


def _patches(network: Generator, batch: int, place: torch.device) -> tuple[Tensor, Tensor]:
    small, large = (torch.rand(batch, 3, side, side, device=place) for side in (PATCH, PATCH * network.scale))
    return small, large


def _done(place: torch.device, run: Way, times: int) -> None:
    """Run so many times, and wait for the device."""
    for _ in range(times):
        run()
    if place.type != "cpu":
        torch.accelerator.synchronize(place)


def _profile(step: Way, kernels: int, count: int = 10) -> None:
    """Print the share of the time of a row of steps in which no kernel runs, and the kernels that take most of it."""
    place = torch.device("cuda")
    start = time.perf_counter()
    _done(place, step, count)
    wall = time.perf_counter() - start
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        _done(place, step, count)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    busy = sum(float(event.self_device_time_total) for event in events) / 1e6
    print(f"the GPU is idle for {max(0.0, 1 - busy / wall):.1%} of the time of esrgan's steps; of the rest")
    for event in events[:kernels]:
        share = event.self_device_time_total / 1e6 / busy
        print(f"  {share:6.1%}  {event.count / count:6.0f} a step  {event.key[:100]}")


def _flop(generator: Generator, shape: torch.Size) -> float:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = Generator(generator.config).to(torch.bfloat16)
        network(torch.empty(shape, dtype=torch.bfloat16))
    return float(counter.get_total_flops())


def _told(seconds: float, flop: float, pixels: int) -> str:
    speed = f"{flop / seconds / 1e12:.2f} TFLOP/s"
    return f"{pixels / seconds / 1e6:.2f} MP/s out, {speed}" if pixels else speed


def _name(dtype: torch.dtype) -> str:
    return {value: key for key, value in DTYPES.items()}[dtype]


if __name__ == "__main__":
    app()
