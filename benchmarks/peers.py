"""The engines that pip installs, with one network each: (1, 3, H, W), float32 on the CPU, to its enlargement."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esrgan.convert import convert
from esrgan.devices import bf16_is_fast
from esrgan.export import write_onnx
from esrgan.generator import Generator
from esrgan.model_file import load_model, save_model
from esrgan.ncnn_export import write_ncnn

Array = NDArray[np.float32]
Network = Callable[[Tensor], Tensor | Array]


def write_files(generator: Generator, folder: Path) -> None:
    """The generator as each engine reads it."""
    save_model(generator, folder / "model.safetensors")
    convert(folder / "model.safetensors", folder / "basicsr.pth")  # spandrel wants growth 32: smaller ones are padded
    write_onnx(generator, folder / "model.onnx", half=False)
    write_ncnn(generator, folder / "model.param", folder / "model.bin")


def peers(folder: Path, *, fixed: bool) -> dict[str, Callable[[], Network]]:
    """Name -> what loads the network from the files in ``folder``; engines that are not installed are left out.

    The first is the network as Real-ESRGAN's script runs it. ``fixed`` lets OpenVINO compile for each size of picture.
    """
    makers: dict[str, Callable[[], Network]] = {
        "torch eager fp32 NCHW": partial(_eager, folder),
        "spandrel (growth padded to 32)": partial(_spandrel, folder),
        "onnxruntime fp32": partial(_onnxruntime, folder),
        "OpenVINO fp32": partial(_openvino, folder, "f32", fixed=fixed),
        "OpenVINO bf16": partial(_openvino, folder, "bf16", fixed=fixed),
        "ncnn fp32": partial(_ncnn, folder, bf16=False),
        "ncnn bf16 storage": partial(_ncnn, folder, bf16=True),
    }
    for name, make in list(makers.items()):
        try:
            make()
        except ImportError as error:
            print(f"left out: {name} ({error})")
            del makers[name]
    return makers


def _eager(folder: Path) -> Network:
    return torch.no_grad()(load_model(folder / "model.safetensors").eval())


def _spandrel(folder: Path) -> Network:
    from spandrel import ModelLoader  # noqa: PLC0415 - may be missing

    network: Network = ModelLoader().load_from_file(folder / "basicsr.pth").eval()
    return torch.no_grad()(network)


def _onnxruntime(folder: Path) -> Network:
    import onnxruntime  # noqa: PLC0415 - may be missing

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its threads would slow the others' turns
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda picture: session.run(None, {name: picture.numpy()})[0]


def _openvino(folder: Path, precision: str, *, fixed: bool) -> Network:
    import openvino  # noqa: PLC0415 - may be missing

    if precision == "bf16" and not bf16_is_fast():
        raise ImportError("this CPU has no fast bf16")
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_NUM_THREADS": torch.get_num_threads()}  # fmt: skip
    core = openvino.Core()
    model = core.read_model(folder / "model.onnx")
    compiled: dict[tuple[int, ...] | None, Callable[[Array], Mapping[int, Array]]] = {}

    def run(picture: Tensor) -> Array:
        shape = tuple(picture.shape) if fixed else None
        if shape not in compiled:
            if shape:
                model.reshape(list(shape))
            compiled[shape] = core.compile_model(model, "CPU", options)
        return compiled[shape](picture.numpy())[0]

    return run


def _ncnn(folder: Path, *, bf16: bool) -> Network:
    import ncnn  # noqa: PLC0415 - may be missing

    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_bf16_storage = bf16
    net.load_param(str(folder / "model.param"))
    net.load_model(str(folder / "model.bin"))

    def run(picture: Tensor) -> Array:
        with net.create_extractor() as extractor:
            extractor.input("data", ncnn.Mat(np.ascontiguousarray(picture[0].numpy())))
            return np.array(extractor.extract("output")[1])[None]

    return run
