"""Networks for other engines (ONNX, OpenVINO, ncnn, torch.export), each proven against torch before it is kept."""

import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esrgan.errors import EsrganError, UsageError
from esrgan.extras import import_extra, import_ncnn
from esrgan.files import move, require_other, with_weights, write_text
from esrgan.generator import Generator, mirrored
from esrgan.images import read_rgb
from esrgan.model_file import load_model
from esrgan.openvino_network import openvino_network
from esrgan.parity import Parity, Run, compare, large_enough, require

EXAMPLE = (1, 3, 24, 32)
"""A size to trace the network with; it is none of the exported one's."""


def export(source: Path | str, out: Path | str, *, half: bool = False, picture: Path | None = None) -> list[Parity]:
    """Write the model file ``source`` for the engine that ``out`` ends in the format of; gives the parity report.

    The report also becomes ``OUT.parity.json``. Beyond the tolerance, 1/255 or in fp16 50 dB, nothing is written.

    Args:
        source: A model file that ``load_model`` reads.
        out: Ends in .onnx, .xml (OpenVINO, with a .bin), .param (ncnn, with a .bin) or .pt2 (torch.export).
        half: fp16 weights; in ONNX and torch.export also fp16 pictures in and out.
        picture: The picture to compare with; none = a photograph that comes along.

    Raises:
        UsageError: An unknown format.
        EsrganError: An engine that is not installed, or a network that came out another.
    """
    source, out = Path(source), Path(out)
    if out.suffix not in FORMATS:
        raise UsageError(f"{out} must end in one of {', '.join(FORMATS)}: the suffix chooses the format")
    for file in with_weights(out):
        require_other(file, *with_weights(source))
    _require_own_bin(out)
    write, load = FORMATS[out.suffix]
    generator = load_model(source).requires_grad_(False)
    compared = None if picture is None else large_enough(read_rgb(picture))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
            made = Path(folder) / out.name
            write(generator, made, half=half)
            rows = compare(generator, load(made), picture=compared)
            require(rows, half=half, what=out)
            for file in sorted(Path(folder).iterdir()):
                move(file, out.parent / file.name)
    except OSError as error:
        raise EsrganError(f"cannot write {out}: {error.strerror or error}") from error
    report = {"model": source.name, "half": half, "tolerance": "50 dB" if half else "1/255"}
    write_text(report_of(out), json.dumps(report | {"sizes": [asdict(row) for row in rows]}, indent=2) + "\n")
    return rows


def report_of(out: Path) -> Path:
    """The file of the parity report beside an exported one."""
    return Path(f"{out}.parity.json")


def _require_own_bin(out: Path) -> None:
    """OpenVINO's and ncnn's networks both keep their weights in a ``.bin``: one name is not for both."""
    weights, network = out.with_suffix(".bin"), {".xml": ".param", ".param": ".xml"}.get(out.suffix)
    if network and out.with_suffix(network).is_file():
        raise EsrganError(f"{out} would overwrite the weights of {out.stem}{network}; choose another name")
    if network and weights.exists() and not out.exists():
        raise EsrganError(f"{weights}, which goes with {out.name}, is there and of something else; choose another name")


class AnySize(nn.Module):
    """A network that begins with pixel-unshuffle, for exporters: the same, without the slices that they cannot follow.

    Edges are mirrored up to a whole number of pixel blocks, and the result is cut to size.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, lr: Tensor) -> Tensor:
        side, scale = self.generator.config.unshuffle, self.generator.scale
        height, width = lr.shape[-2:]
        rows, columns = (height + side - 1) // side, (width + side - 1) // side
        x = lr.index_select(2, mirrored(height, rows * side)).index_select(3, mirrored(width, columns * side))
        x = x.reshape(1, 3, rows, side, columns, side).permute(0, 1, 3, 5, 2, 4)
        sr = self.generator.enlarge(x.reshape(1, 3 * side**2, rows, columns))
        return sr.index_select(2, torch.arange(scale * height)).index_select(3, torch.arange(scale * width))


def trace(generator: Generator, *, half: bool = False) -> dict[str, Any]:
    """The arguments of torch's exporters: the network, an example, and which sizes vary."""
    dtype = torch.float16 if half else torch.float32
    side = generator.config.unshuffle
    sides = [torch.export.Dim(name, min=side + 1) for name in ("height", "width")]
    ours = copy.deepcopy(generator).to(dtype)
    network = AnySize(ours).eval() if side > 1 else ours
    example = torch.rand(EXAMPLE, dtype=dtype)
    return {"mod": network, "args": (example,), "dynamic_shapes": ({2: sides[0], 3: sides[1]},)}


def write_onnx(generator: Generator, path: Path, *, half: bool) -> None:
    """Write and check an ONNX file: ``input`` and ``output`` (1, 3, height, width), sizes free."""
    onnx = import_extra("onnx", "onnx")
    import_extra("onnxscript", "onnx")
    traced = trace(generator, half=half)
    program = torch.onnx.export(
        traced["mod"], traced["args"], dynamic_shapes=traced["dynamic_shapes"], dynamo=True, verbose=False,
        input_names=["input"], output_names=["output"],
    )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")  # the exporter's notes on this machine's source files
    onnx.helper.set_model_props(model, {"esrgan": json.dumps(asdict(generator.config)), "scale": str(generator.scale)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


def load_onnx(path: Path) -> Run:
    """Run an ONNX file in onnxruntime."""
    session = import_extra("onnxruntime", "onnx").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    dtype = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
    return lambda lr: torch.from_numpy(session.run(None, {"input": lr.numpy().astype(dtype)})[0])


def write_openvino(generator: Generator, path: Path, *, half: bool) -> None:
    """Write an OpenVINO network, ``.xml`` and ``.bin``; with ``half`` only its weights are fp16."""
    openvino, model = import_extra("openvino", "openvino"), openvino_network(generator)
    model.set_rt_info(json.dumps(asdict(generator.config)), "esrgan")
    openvino.save_model(model, path, compress_to_fp16=half)


def load_openvino(path: Path) -> Run:
    """Run an OpenVINO network on the CPU, in fp32."""
    core = import_extra("openvino", "openvino").Core()
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda lr: torch.from_numpy(np.array(compiled(lr.numpy())[0]))


def write_pt2(generator: Generator, path: Path, *, half: bool) -> None:
    """Write a program of torch.export, which runs without this package."""
    traced = trace(generator, half=half)
    program = torch.export.export(traced["mod"], traced["args"], dynamic_shapes=traced["dynamic_shapes"])
    with path.open("wb") as file:  # as on Windows torch opens no path of other letters than ASCII
        torch.export.save(program, file, extra_files={"esrgan": json.dumps(asdict(generator.config))})


def load_pt2(path: Path) -> Run:
    """Run a program of torch.export."""
    with path.open("rb") as file:
        network = torch.export.load(file).module()
    dtype = next(iter(network.state_dict().values())).dtype
    return lambda lr: network(lr.to(dtype))


def write_ncnn_pair(generator: Generator, path: Path, *, half: bool) -> None:
    """Write an ncnn network, ``.param`` and ``.bin``, with the blobs ``data`` and ``output``."""
    from esrgan.ncnn_export import write_ncnn  # noqa: PLC0415

    import_ncnn()
    write_ncnn(generator, path, path.with_suffix(".bin"), half=half)


def load_ncnn(path: Path) -> Run:
    """Run an ncnn network on the CPU, in fp32."""
    from esrgan.ncnn_engine import open_net, plain_folder, run_net  # noqa: PLC0415

    with tempfile.TemporaryDirectory(dir=plain_folder()) as folder:  # of its name the same holds for ncnn
        param, binary = (shutil.copy(file, folder) for file in with_weights(path))
        net = open_net(Path(param), Path(binary), torch.float32)
    return lambda lr: run_net(net, lr[0])[None]


Write = Callable[..., None]
FORMATS: dict[str, tuple[Write, Callable[[Path], Run]]] = {
    ".onnx": (write_onnx, load_onnx),
    ".xml": (write_openvino, load_openvino),
    ".param": (write_ncnn_pair, load_ncnn),
    ".pt2": (write_pt2, load_pt2),
}
"""How each format is written and how it is run."""
