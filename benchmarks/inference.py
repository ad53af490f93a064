"""Seconds to enlarge one square picture: ours against the engines that pip installs, same weights, same picture.

    uv run --group bench python -m benchmarks.inference --network lite full --side 128 256 512

Peers that are not installed are left out and named. The first row is the network as Real-ESRGAN's script runs it.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from cyclopts import App, Parameter
from torch import Tensor

from benchmarks.harness import Timing, pick_clock, save, show, take_turns
from esrgan.config import GeneratorConfig
from esrgan.convert import convert
from esrgan.devices import bf16_is_fast
from esrgan.export import write_onnx
from esrgan.generator import Generator
from esrgan.model_file import save_model
from esrgan.parity import made_picture
from esrgan.upscaler import Upscaler

NETWORKS = {"lite": GeneratorConfig(blocks=6, channels=32, growth=16), "full": GeneratorConfig()}

app = App(help=__doc__)
Way = Callable[[], object]


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
        generator = _steady(Generator(NETWORKS[name]).eval())
        with tempfile.TemporaryDirectory() as folder:
            peers = _peers(generator, Path(folder))
            for pixels in side:
                picture = made_picture(pixels, pixels)
                ways = {title: make(picture) for title, make in peers.items()}
                title = f"{name}, {pixels} x {pixels}"
                results[title] = take_turns(ways, rounds=rounds, clock=clock)
                show(title, results[title])
    save(results, json)


@torch.no_grad()
def _steady(generator: Generator) -> Generator:
    """With weights that give a linear enlargement: noise would be taken for a fault of bf16 and redone in fp32."""
    generator.conv_body.weight[:3] = 0
    return generator


def _peers(generator: Generator, folder: Path) -> dict[str, Callable[[Tensor], Way]]:
    """Name -> (picture -> what is timed)."""
    ours = Upscaler(generator)
    makers: dict[str, Callable[[], Callable[[Tensor], Way]]] = {
        "torch eager fp32 NCHW": lambda: _eager(generator),
        f"esrgan ({str(ours.dtype).removeprefix('torch.')})": lambda: lambda picture: partial(ours, picture),
        "esrgan fp32": lambda: lambda picture: partial(Upscaler(generator, precision="fp32"), picture),
        "spandrel": lambda: _spandrel(generator, folder),
        "onnxruntime fp32": lambda: _onnxruntime(generator, folder),
        "OpenVINO fp32": lambda: _openvino(generator, folder, "f32"),
        "OpenVINO bf16": lambda: _openvino(generator, folder, "bf16"),
        "ncnn fp32": lambda: _ncnn(generator, folder, bf16=False),
        "ncnn bf16 storage": lambda: _ncnn(generator, folder, bf16=True),
    }
    peers = {}
    for name, make in makers.items():
        try:
            peers[name] = make()
        except ImportError as error:
            print(f"left out: {name} ({error})")
    return peers


def _eager(generator: Generator) -> Callable[[Tensor], Way]:
    def run(picture: Tensor) -> Tensor:
        with torch.no_grad():
            return generator(picture)

    return lambda picture: partial(run, picture)


def _spandrel(generator: Generator, folder: Path) -> Callable[[Tensor], Way]:
    from spandrel import ModelLoader  # noqa: PLC0415 - may be missing

    save_model(generator, folder / "model.safetensors")
    convert(folder / "model.safetensors", folder / "basicsr.pth")
    model = ModelLoader().load_from_file(folder / "basicsr.pth").eval()

    def run(picture: Tensor) -> Tensor:
        with torch.no_grad():
            return model(picture)

    return lambda picture: partial(run, picture)


def _onnx(generator: Generator, folder: Path) -> Path:
    path = folder / "model.onnx"
    if not path.exists():
        write_onnx(generator, path, half=False)
    return path


def _onnxruntime(generator: Generator, folder: Path) -> Callable[[Tensor], Way]:
    import onnxruntime  # noqa: PLC0415 - may be missing

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its threads would slow the others' turns
    session = onnxruntime.InferenceSession(_onnx(generator, folder), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda picture: partial(session.run, None, {name: picture.numpy()})


def _openvino(generator: Generator, folder: Path, precision: str) -> Callable[[Tensor], Way]:
    import openvino  # noqa: PLC0415 - may be missing

    if precision == "bf16" and not bf16_is_fast():
        raise ImportError("this CPU has no fast bf16")
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_NUM_THREADS": torch.get_num_threads()}  # fmt: skip
    core = openvino.Core()
    model = core.read_model(_onnx(generator, folder))

    def make(picture: Tensor) -> Way:
        model.reshape(list(picture.shape))
        compiled = core.compile_model(model, "CPU", options)
        return partial(compiled, picture.numpy())

    return make


def _ncnn(generator: Generator, folder: Path, *, bf16: bool) -> Callable[[Tensor], Way]:
    import ncnn  # noqa: PLC0415 - may be missing

    from esrgan.ncnn_export import write_ncnn  # noqa: PLC0415

    write_ncnn(generator, folder / "model.param", folder / "model.bin")
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_bf16_storage = bf16
    net.load_param(str(folder / "model.param"))
    net.load_model(str(folder / "model.bin"))

    def run(data: np.ndarray) -> object:
        with net.create_extractor() as extractor:
            extractor.input("data", ncnn.Mat(data))
            return np.array(extractor.extract("output")[1])

    return lambda picture: partial(run, np.ascontiguousarray(picture[0].numpy()))


if __name__ == "__main__":
    app()
