"""What runs a network: torch, or ncnn with its Winograd kernels on the CPU and Vulkan on any GPU."""

import copy
import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from esrgan.devices import DTYPES, Precision, bf16_is_fast, pick_device, pick_precision
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.other_network import OtherNetwork

EngineName = Literal["auto", "torch", "ncnn"]
VULKAN = "vulkan"
Network = Generator | OtherNetwork


def torch_device(name: str) -> torch.device:
    """Where the pictures lie that a network on device ``name`` is given: for Vulkan, which ncnn runs, on the CPU."""
    return pick_device("cpu" if name == VULKAN else name)


class Torch:
    """A network run by torch, in any arithmetic; it keeps its own copies of the weights.

    Args:
        network: Left as it is.
        device: Where it runs.
        dtype: Its usual arithmetic.
        compiled: Through ``torch.compile``, which takes up to minutes at the first tile.
    """

    def __init__(self, network: Network, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> None:
        self.network, self.device, self.dtype, self.compiled = network, device, dtype, compiled
        self.about = f"by torch{', compiled,' if compiled else ''} on {device}"
        self._ready: dict[torch.dtype, Callable[[Tensor], Tensor]] = {}
        self._lock = threading.Lock()

    def __call__(self, lr: Tensor, dtype: torch.dtype) -> Tensor:
        """Enlarge (N, 3, h, w) on the device; the result is float32, made in ``dtype``."""
        run = self._run(dtype)
        with torch.inference_mode():
            lr = lr.to(dtype, memory_format=torch.channels_last)
            return (_explained(run, lr) if self.compiled else run(lr)).float()

    def _run(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        with self._lock:
            if dtype not in self._ready:
                network = copy.deepcopy(self.network).requires_grad_(False).eval()
                network.to(self.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
                self._ready[dtype] = torch.compile(network, dynamic=True) if self.compiled else network
            return self._ready[dtype]


def _explained(run: Callable[[Tensor], Tensor], lr: Tensor) -> Tensor:
    from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 - seconds of imports

    try:
        return run(lr)
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise EsrganError(f"torch cannot compile the network here ({reason}); leave --compile out") from error


class Ncnn:
    """A network run by ncnn; pictures come from and go to the CPU's memory.

    Args:
        network: Written out for ncnn as it is now.
        dtype: Its usual arithmetic.
        vulkan: On the GPU that Vulkan finds first, else on the CPU.

    Raises:
        EsrganError: ncnn is not installed, or finds no GPU.
    """

    def __init__(self, network: Generator, dtype: torch.dtype, *, vulkan: bool) -> None:
        self.network, self.dtype, self.vulkan = network, dtype, vulkan
        self.device = torch.device("cpu")
        self._ncnn = _import_ncnn()
        where = "cpu"
        if vulkan:
            if not self._ncnn.get_gpu_count():
                raise EsrganError("ncnn finds no GPU with a Vulkan driver here; install the driver, or --device cpu")
            where = f"vulkan ({self._ncnn.get_gpu_info(self._ncnn.get_default_gpu_index()).device_name()})"
        self.about = f"by ncnn on {where}"
        self._ready: dict[torch.dtype, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, lr: Tensor, dtype: torch.dtype) -> Tensor:
        """Enlarge (N, 3, h, w) on the CPU; the result is float32, made in ``dtype``."""
        net, side = self._net(dtype), self.network.config.unshuffle
        height, width = lr.shape[-2:]
        lr = F.pad(lr, (0, -width % side, 0, -height % side), mode="reflect")
        sr = torch.stack([self._one(net, picture) for picture in lr])
        return sr[..., : height * self.network.scale, : width * self.network.scale]

    def _one(self, net: Any, lr: Tensor) -> Tensor:
        data = np.ascontiguousarray(lr.numpy())  # ncnn reads it with the strides of such an array, whatever it has
        aligned = self._ncnn.Mat(data).clone()  # layers that change their input crash on other memory
        with net.create_extractor() as extractor:
            failed = extractor.input("data", aligned)
            if not failed:
                failed, sr = extractor.extract("output")
            if failed:
                raise torch.OutOfMemoryError(f"ncnn is out of memory ({failed})")  # all else fails when it loads
            return torch.from_numpy(np.array(sr))

    def _net(self, dtype: torch.dtype) -> Any:
        with self._lock:
            if dtype not in self._ready:
                self._ready[dtype] = self._load(dtype)
            return self._ready[dtype]

    def _load(self, dtype: torch.dtype) -> Any:
        from esrgan.ncnn_export import write_ncnn  # noqa: PLC0415 - needed only here

        net = self._ncnn.Net()
        net.opt.use_vulkan_compute = self.vulkan
        net.opt.num_threads = torch.get_num_threads()
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic"):
            setattr(net.opt, f"use_{option}", dtype == torch.float16)
        net.opt.use_bf16_storage = dtype == torch.bfloat16
        with tempfile.TemporaryDirectory() as folder:
            param, binary = Path(folder) / "network.param", Path(folder) / "network.bin"
            write_ncnn(self.network, param, binary)
            if net.load_param(str(param)) or net.load_model(str(binary)):
                raise EsrganError("ncnn cannot load this network; use --engine torch")
        return net


Engine = Torch | Ncnn


def pick_engine(
    engine: EngineName, network: Network, *, device: str, precision: Precision, compiled: bool = False
) -> Engine:
    """What runs ``network`` on ``device``; with ``auto`` the fastest thing that is installed.

    That is torch, except on Vulkan, and except for fp32 on a CPU without fast bf16: there ncnn's Winograd kernels are
    faster, if it is installed.

    Raises:
        EsrganError: An unknown engine, or one that is not here or cannot do what is asked.
    """
    if engine not in ("auto", "torch", "ncnn"):
        raise EsrganError(f"engine is {engine!r}; it must be auto, torch or ncnn")
    obstacle = _obstacle(network, device, precision, compiled=compiled)
    if device == VULKAN or engine == "ncnn":
        if engine == "torch":
            raise EsrganError("torch does not run on Vulkan; use --engine ncnn, or another --device")
        if obstacle:
            raise EsrganError(f"ncnn cannot do this: {obstacle}")
        usual = "fp16" if device == VULKAN else "fp32"
        dtype = DTYPES[usual if precision == "auto" else precision]
        return Ncnn(cast(Generator, network), dtype, vulkan=device == VULKAN)
    where = pick_device(device)
    dtype = pick_precision(precision, where)
    slow = where.type == "cpu" and dtype == torch.float32 and not bf16_is_fast()
    if engine == "auto" and slow and not obstacle and find_spec("ncnn"):
        return Ncnn(cast(Generator, network), dtype, vulkan=False)
    return Torch(network, where, dtype, compiled=compiled)


def _obstacle(network: Network, device: str, precision: Precision, *, compiled: bool) -> str | None:
    """Why ncnn cannot be used, if it cannot."""
    if type(network) is not Generator:
        return "it runs ESRGAN networks only; use --engine torch"
    if device not in ("auto", "cpu", VULKAN):
        return f"it runs on --device cpu or vulkan, not {device}"
    possible = ("auto", "fp32", "fp16" if device == VULKAN else "bf16")
    if precision not in possible:
        return f"on {device} its --precision is {', '.join(possible)}, not {precision}"
    return "--compile is for torch" if compiled else None


def _import_ncnn() -> Any:
    try:
        import ncnn  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise EsrganError("this needs ncnn, which is not installed: pip install 'esrgan[ncnn]'") from error
    return ncnn
