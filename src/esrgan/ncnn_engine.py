"""A network run by ncnn: its Winograd kernels on the CPU, and Vulkan on any GPU."""

import ctypes
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from esrgan.errors import EsrganError
from esrgan.extras import import_ncnn
from esrgan.generator import Generator


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
        self._ncnn = import_ncnn()
        where = "cpu"
        if vulkan:
            if not _loads_vulkan() or not self._ncnn.get_gpu_count():
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
        sr = torch.stack([run_net(net, picture) for picture in lr])
        return sr[..., : height * self.network.scale, : width * self.network.scale]

    def _net(self, dtype: torch.dtype) -> Any:
        with self._lock:
            if dtype not in self._ready:
                self._ready[dtype] = self._load(dtype)
            return self._ready[dtype]

    def _load(self, dtype: torch.dtype) -> Any:
        from esrgan.ncnn_export import write_ncnn  # noqa: PLC0415 - needed only here

        with tempfile.TemporaryDirectory(dir=plain_folder()) as folder:
            param, binary = Path(folder) / "network.param", Path(folder) / "network.bin"
            write_ncnn(self.network, param, binary)
            return open_net(param, binary, dtype, vulkan=self.vulkan)


def open_net(param: Path, binary: Path, dtype: torch.dtype, *, vulkan: bool = False) -> Any:
    """Load a network from ncnn's two files.

    Raises:
        EsrganError: ncnn cannot load them.
    """
    net = import_ncnn().Net()
    net.opt.use_vulkan_compute = vulkan
    net.opt.num_threads = torch.get_num_threads()
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic"):
        setattr(net.opt, f"use_{option}", dtype == torch.float16)
    net.opt.use_bf16_storage = dtype == torch.bfloat16
    if net.load_param(str(param)) or net.load_model(str(binary)):
        raise EsrganError(f"ncnn cannot load the network it was written ({param.name}); use another engine")
    return net


def run_net(net: Any, lr: Tensor) -> Tensor:
    """Enlarge (3, h, w).

    Raises:
        OutOfMemoryError: Too little memory, for which alone a loaded network fails.
    """
    data = np.ascontiguousarray(lr.numpy())  # ncnn reads it with the strides of such an array, whatever it has
    aligned = import_ncnn().Mat(data).clone()  # layers that change their input crash on other memory
    with net.create_extractor() as extractor:
        failed = extractor.input("data", aligned)
        if not failed:
            failed, sr = extractor.extract("output")
        if failed:
            raise torch.OutOfMemoryError(f"ncnn is out of memory ({failed})")
        return torch.from_numpy(np.array(sr))


def _loads_vulkan() -> bool:
    """Whether Vulkan's loader is there; on Linux, where ncnn prints ten lines if it is not."""
    try:
        return sys.platform != "linux" or bool(ctypes.CDLL("libvulkan.so.1"))
    except OSError:
        return False


def plain_folder() -> str | None:
    """Where ncnn's files can lie for a moment: on Windows it opens no path of other letters than ASCII."""
    other = sys.platform == "win32" and not tempfile.gettempdir().isascii()
    return os.environ.get("PUBLIC") if other else None
