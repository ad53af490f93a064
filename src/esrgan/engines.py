"""What runs a network: torch anywhere; Winograd, OpenVINO or ncnn on the CPU; ncnn by Vulkan on any GPU."""

import copy
import logging
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from esrgan.compiled import can_compile, compile_blocks, falling_back
from esrgan.devices import DTYPES, Precision, bf16_is_fast, layout, pick_device, pick_precision
from esrgan.errors import EsrganError, UsageError, first_line
from esrgan.extras import ExtraError
from esrgan.generator import Generator, is_plain
from esrgan.ncnn_engine import Ncnn
from esrgan.openvino_network import OpenVINO
from esrgan.other_network import OtherNetwork
from esrgan.winograd_engine import Winograd, misfit
from esrgan.winograd_kernel import runs_fast_here

EngineName = Literal["auto", "torch", "winograd", "ncnn", "openvino"]
ENGINES: tuple[str, ...] = get_args(EngineName)
VULKAN = "vulkan"
SMALL_TILE = 128 * 128
"""LR pixels."""
WIDE = 64
"""Channels from which on ncnn, whose Winograd kernels need many, is faster than OpenVINO in fp32."""
FEW = 8
"""Pictures: as many small ones are done while another engine is loaded."""
LONG = 20.0
"""Seconds of a GPU's work after which a network is worth the seconds that compiling takes: long jobs go on for long."""
Network = Generator | OtherNetwork
_SWITCH = threading.Lock()

log = logging.getLogger("esrgan")


def torch_device(name: str) -> torch.device:
    """Where the pictures lie that a network on device ``name`` is given: for Vulkan, which ncnn runs, on the CPU."""
    return pick_device("cpu" if name == VULKAN else name)


class Torch:
    """A network run by torch, in any arithmetic; it keeps its own copies of the weights.

    ESRGAN's are compiled where that pays, on CUDA with Triton after ``LONG`` seconds of work; if torch then cannot do
    it after all, they go on as they are.

    Args:
        network: Left as it is.
        device: Where it runs; pictures are given and come back there, or, with Apple's GPU, on the CPU.
        dtype: Its usual arithmetic.
        compiled: From the first tile on, which takes up to minutes for networks other than ESRGAN's.
    """

    def __init__(self, network: Network, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> None:
        self.network, self.dtype, self.compiled = network, dtype, compiled
        self.place = device
        self.device = torch.device("cpu") if device.type == "mps" else device  # Apple's GPU takes one thread at a time
        self.about = f"by torch{', compiled,' if compiled else ''} on {device}"
        self._ready: dict[torch.dtype, Callable[[Tensor], Tensor]] = {}
        self._may_compile = not compiled and isinstance(network, Generator) and can_compile(device)
        self._worked = 0.0  # seconds
        self._lock = threading.Lock()
        self._turn = threading.Lock() if device.type == "mps" else nullcontext()

    def __call__(self, lr: Tensor, dtype: torch.dtype) -> Tensor:
        """Enlarge (N, 3, h, w) on the device; the result is float32, made in ``dtype``."""
        run = self._run(dtype)
        with torch.inference_mode(), self._turn, _all_bits(self.place, dtype):
            lr = lr.to(self.place, dtype, memory_format=layout(self.place))
            if self.compiled:
                return _explained(run, lr).float().to(self.device)
            with self._watched(dtype), falling_back(wanted=self._worked >= LONG):
                return run(lr).float().to(self.device)

    def steady(self) -> None:
        """Compute all that comes as it is computed now."""
        self._may_compile = False

    @contextmanager
    def _watched(self, dtype: torch.dtype) -> Iterator[None]:
        """Count the seconds within, and let the network be compiled once they are many."""
        start = time.perf_counter()
        yield
        if not self._may_compile or dtype == torch.float32 or self._worked >= LONG:
            return
        torch.cuda.synchronize(self.place)  # whoever called waits for the picture anyway
        with self._lock:
            before, self._worked = self._worked, self._worked + time.perf_counter() - start
            if before < LONG <= self._worked:
                log.info("%.0f seconds of work: the network is compiled from here on, which takes some more", LONG)
                compile_blocks(cast(Generator, self._ready[dtype]), dynamic=True)

    def _run(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        with self._lock:
            if dtype not in self._ready:
                network = copy.deepcopy(self.network).requires_grad_(False).eval()
                network.to(self.place, dtype, memory_format=layout(self.place))  # type: ignore[call-overload]
                self._ready[dtype] = _compiled(network) if self.compiled else network
            return self._ready[dtype]


@contextmanager
def _all_bits(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Within it cuDNN drops no bits of fp32 (TF32): fp32 is asked for where all of them count."""
    if device.type != "cuda" or dtype != torch.float32:
        yield
        return
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    with _SWITCH:
        before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
        try:
            yield
        finally:
            convolutions.fp32_precision = before


def _compiled(network: Network) -> Callable[[Tensor], Tensor]:
    if isinstance(network, Generator):
        compile_blocks(network, dynamic=True)
        return network
    run: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=True)
    return run


def _explained(run: Callable[[Tensor], Tensor], lr: Tensor) -> Tensor:
    from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 - seconds of imports

    try:
        return run(lr)
    except TorchDynamoException as error:
        reason = first_line(error)
        raise EsrganError(f"torch cannot compile the network here ({reason}); leave --compile out") from error


class BySize:
    """Torch for a few small tiles, which are done before the other engine is loaded, and that one for all others."""

    def __init__(self, small: Torch, large: OpenVINO | Winograd) -> None:
        self.torch = small
        self.small: Torch | OpenVINO | Winograd = small
        self.large: Torch | OpenVINO | Winograd = large
        self.device, self.dtype, self.about = large.device, large.dtype, large.about

    def __call__(self, lr: Tensor, dtype: torch.dtype) -> Tensor:
        """Enlarge (N, 3, h, w) on the CPU; the result is float32, made in ``dtype``."""
        try:
            return (self.small if lr.shape[-2] * lr.shape[-1] < SMALL_TILE else self.large)(lr, dtype)
        except ExtraError as error:  # of a package that is there and does not work
            log.warning("%s; torch enlarges instead, more slowly", error)
            self.small, self.large, self.about = self.torch, self.torch, self.torch.about
            return self.torch(lr, dtype)

    def expect(self, pictures: int) -> None:
        """For so many, small ones too are worth loading the other engine, or not; one run has one answer."""
        if pictures > FEW:
            self.steady()

    def steady(self) -> None:
        """Give small tiles too to the other engine."""
        self.small = self.large


Engine = Torch | Winograd | Ncnn | OpenVINO | BySize


def pick_engine(
    engine: EngineName, network: Network, *, device: str, precision: Precision, compiled: bool = False
) -> Engine:
    """What runs ``network`` on ``device``; with ``auto`` the fastest thing that is installed.

    That is torch, except on Vulkan, and except on a CPU: there OpenVINO is faster in bf16, and Winograd in fp32 on x86.
    Without them OpenVINO is faster for narrow networks on x86, ncnn with its Winograd kernels for all others.

    Raises:
        UsageError: An unknown engine, or one that cannot do what is asked.
        EsrganError: An engine or a device that is not here.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine is {engine!r}; it must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    if device == VULKAN and engine not in ("auto", "ncnn"):
        raise UsageError(f"{engine} does not run on Vulkan; use --engine ncnn, or another --device")
    name = "ncnn" if device == VULKAN else engine
    obstacle = _obstacle(name, network, device, precision, compiled=compiled)
    if name not in ("auto", "torch"):
        if obstacle:
            raise UsageError(f"{name} cannot do this: {obstacle}")
        return _other(name, cast(Generator, network), device, precision, by_itself=False)
    where = pick_device(device)
    dtype = _precision(network, precision, where)
    if name == "auto" and not obstacle and where.type == "cpu":
        try:
            fastest = _fastest(cast(Generator, network), dtype)
            if fastest != "torch":
                return _other(fastest, cast(Generator, network), device, precision, by_itself=True)
        except ExtraError as error:
            log.warning("%s; torch enlarges instead, more slowly", error)
    return Torch(network, where, dtype, compiled=compiled)


def _other(name: str, network: Generator, device: str, precision: Precision, *, by_itself: bool) -> Engine:
    """An engine other than torch; one that was chosen ``by_itself`` leaves a few small tiles to torch."""
    dtype = torch.float32 if name == "winograd" else _other_precision(name, precision, device)
    if name == "ncnn":
        return Ncnn(network, dtype, vulkan=device == VULKAN)
    large = Winograd(network) if name == "winograd" else OpenVINO(network, dtype)
    return BySize(Torch(network, large.device, dtype), large) if by_itself else large


def _precision(network: Network, precision: Precision, device: torch.device) -> torch.dtype:
    """What torch computes in; some networks of other architectures can do fp32 only."""
    dtype = pick_precision(precision, device)
    if dtype == torch.float32 or isinstance(network, Generator) or network.halves:
        return dtype
    if precision == "auto":
        return torch.float32
    raise UsageError(f"{network.architecture} does not run in {precision}; use --precision fp32 or auto")


def _other_precision(name: str, precision: Precision, device: str) -> torch.dtype:
    """What ncnn or OpenVINO computes in."""
    if precision != "auto":
        return DTYPES[precision]
    if device == VULKAN:
        return torch.float16
    return torch.bfloat16 if name == "ncnn" or bf16_is_fast() else torch.float32  # ncnn only stores it, anywhere


def _fastest(network: Generator, dtype: torch.dtype) -> str:
    """Of what is installed, on a CPU; fp32 that is asked for where bf16 is faster is for exactness."""
    if dtype != torch.float32:
        choices = ["openvino"]
    else:
        x86 = platform.machine() in ("x86_64", "AMD64")  # others were not measured
        narrow = x86 and network.config.channels < WIDE
        choices = [] if bf16_is_fast() else ["openvino", "ncnn"] if narrow else ["ncnn", "openvino"]
        if x86 and find_spec("llvmlite") and not misfit(network) and runs_fast_here():
            return "winograd"
    return next((name for name in choices if find_spec(name)), "torch")


def _obstacle(name: str, network: Network, device: str, precision: Precision, *, compiled: bool) -> str | None:
    """Why an engine other than torch cannot be used, if it cannot."""
    if not is_plain(network):
        return "it runs ESRGAN networks only; use --engine torch"
    if device not in ("auto", "cpu", VULKAN):
        return f"it runs on --device cpu{' or vulkan' if name == 'ncnn' else ''}, not {device}"
    if name == "winograd" and (reason := misfit(cast(Generator, network))):
        return reason
    possible = ("auto", "fp32", *(() if name == "winograd" else ("fp16" if device == VULKAN else "bf16",)))
    if precision not in possible:
        return f"its --precision{' on Vulkan' * (device == VULKAN)} is {', '.join(possible)}, not {precision}"
    return "--compile is for torch" if compiled else None
