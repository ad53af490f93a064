"""Enlarging with a network: tiles, precision, memory, and checks that no wrong picture comes out."""

import copy
import logging
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from esrgan.devices import Precision
from esrgan.engines import VULKAN, BySize, EngineName, Torch, pick_engine, torch_device
from esrgan.errors import EsrganError, UsageError
from esrgan.generator import Generator
from esrgan.memory import is_out_of_memory
from esrgan.other_network import OtherNetwork, load_network
from esrgan.tile_size import usual_overlap, usual_tile
from esrgan.tiling import spans, tiled

SMALLEST_TILE = 48
"""Below this, running out of memory is final."""
SMALL = 16
"""Sides below this are framed with copies of the edge before the network sees them."""
FRAME = 16
PROBE = 64
"""Side of the square on which fp32 is asked whether 16 bits are at fault."""
LEVEL = 1 / 255
PATIENCE = 3
"""Tiles in a row that are not finite in 16 bits, after which all are computed in fp32 at once: some GPUs never are."""
NOT_FINITE = "values that are not finite"
SLACK = 1e-3
"""How far values of a picture may lie beside [0, 1], by rounding."""
LARGEST_SHIFT = 2 * LEVEL
"""How far the mean colour of a picture may move before it is taken for a fault."""

log = logging.getLogger("esrgan")


class Upscaler:
    """A network ready to enlarge pictures; keeps nothing of a picture between calls, so threads may share one.

    Args:
        model: A network, a model file, a name as ``find_model`` takes it, or none for the default one.
        device: Where it runs: auto, cpu, cuda, cuda:1, mps, vulkan.
        precision: Its arithmetic: auto (the fastest that is safe there), fp32, bf16, fp16. ``esrgan.upscale`` has
            pictures of more than 8 bits, float arrays and tensors among them, computed in fp32 all the same.
        tile: Side of the largest square given to the network at once, in LR pixels; smaller needs less memory.
        overlap: LR pixels read around every tile; none = as the network's depth asks for.
        engine: What runs it: auto (the fastest that is installed), torch, winograd,
            ncnn, openvino.
        compiled: Through ``torch.compile``.

    Attributes:
        name: Of the model, as lite_x4_gan: its file's without the suffix, or hf:owner/name; None of a bare network.
        scale: How many times larger its pictures are.
        tile: Side of the largest square given to the network, in LR pixels.
        overlap: LR pixels read around every tile.
        device: Where torch runs the network; the CPU with other engines.
        dtype: Arithmetic of the network.

    Raises:
        EsrganError: An unknown device, precision or engine, a model that cannot be read, a tile too small for its
            overlap.
    """

    def __init__(
        self,
        model: Generator | OtherNetwork | str | Path | None = None,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        tile: int | None = None,
        overlap: int | None = None,
        engine: EngineName = "auto",
        compiled: bool = False,
    ) -> None:
        self.name: str | None = None
        if not isinstance(model, Generator | OtherNetwork):
            if not isinstance(model, str | Path | None):
                raise UsageError(f"{type(model).__name__} is no model; give a Generator, a file or a name")
            from esrgan.library import find_model, name_of_model  # noqa: PLC0415 - needed only to look a name up

            path = find_model(model, scale=4, device=str(torch_device(device)))
            self.name = name_of_model(model, path)
            model = load_network(path)
        self.scale = model.scale
        self.overlap = usual_overlap(model, tile) if overlap is None else overlap
        self._engine = pick_engine(engine, model, device=device, precision=precision, compiled=compiled)
        self.device, self.dtype = self._engine.device, self._engine.dtype
        usual = usual_tile(self.device, self.overlap, self.scale, vulkan=device == VULKAN)
        self.tile = max(usual, 3 * self.overlap) if tile is None else tile
        spans(1, self.tile, self.overlap)  # raises where they do not go together
        self._said_small_tiles = False
        self._unfit = [0]  # tiles in a row that 16 bits were unfit for; shared by copies
        self._too_large: dict[torch.dtype, int] = {}  # the smallest tile that memory did not suffice for
        self._run_by: Callable[[Callable[[], Tensor]], Tensor] = lambda work: work()

    def through(self, run_by: Callable[[Callable[[], Tensor]], Tensor]) -> "Upscaler":
        """The same upscaler, whose network is run by ``run_by``: it is given the work, and gives its result back."""
        other = copy.copy(self)
        other._run_by = run_by
        return other

    def expect(self, pictures: int) -> None:
        """Prepare for so many pictures: more than a few are worth a longer start."""
        if isinstance(self._engine, BySize):
            self._engine.expect(pictures)

    def steady(self) -> None:
        """Let one engine compute all that comes, in one way: for measurements."""
        if isinstance(self._engine, BySize | Torch):
            self._engine.steady()

    @property
    def about(self) -> str:
        """What it does, where and how, in a few words."""
        arithmetic = str(self.dtype).removeprefix("torch.")
        return f"x{self.scale} {self._engine.about} in {arithmetic}, tiles of {self.tile}, overlap {self.overlap}"

    def __call__(self, image: Tensor, *, exact: bool = False) -> Tensor:
        """Enlarge RGB pictures in [0, 1], (N, 3, H, W) -> (N, 3, scale * H, scale * W) float32, on the same device.

        This is the bare network, without gradients; ``esrgan.upscale`` also holds the colours and refuses what moved.

        Args:
            image: Of any size from 1 x 1.
            exact: Compute in fp32 whatever the precision: for pictures of more than 8 bits.

        Raises:
            EsrganError: Not such pictures, values beside [0, 1] or not finite, or too little memory.
        """
        if not isinstance(image, Tensor):
            raise EsrganError(f"the bare network takes a tensor, not {type(image).__name__}; esrgan.upscale takes more")
        if image.dim() != 4 or image.shape[1] != 3 or 0 in image.shape or not image.is_floating_point():
            raise EsrganError(f"pictures must be float tensors (N, 3, H, W), not {image.dtype} {tuple(image.shape)}")
        image = image.detach().float()
        low, high = (value.item() for value in image.aminmax())
        if not math.isfinite(low + high):
            raise EsrganError("the picture has values that are not finite")
        if low < -SLACK or high > 1 + SLACK:
            raise EsrganError(f"pictures are in [0, 1]; this one spans {low:.4g} to {high:.4g}")
        try:
            return tiled(
                lambda piece: self.piece(piece, exact=exact),
                image,
                scale=self.scale,
                tile=self.tile,
                overlap=self.overlap,
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            size = 4 * image.numel() * self.scale**2 / 1e9
            raise EsrganError(
                f"out of memory on {image.device}: the result has {size:.1f} GB; give fewer or smaller pictures at once"
            ) from error

    def piece(self, lr: Tensor, *, exact: bool = False) -> Tensor:
        """Enlarge one tile, (N, 3, h, w) in [0, 1], and check it; a failure in 16 bits is redone in fp32.

        Raises:
            EsrganError: The network gives values that are not finite, or one colour for a tile of several.
        """
        height, width = lr.shape[-2:]
        if min(height, width) < SMALL:
            sr = self.piece(_framed(lr), exact=exact)
            top, left = (FRAME * self.scale if side < SMALL else 0 for side in (height, width))
            return sr[..., top : top + height * self.scale, left : left + width * self.scale]
        lr = lr.to(self.device)
        fault = None
        exact = exact or self._unfit[0] >= PATIENCE
        for dtype in dict.fromkeys((torch.float32 if exact else self.dtype, torch.float32)):
            sr = self._in_memory(lr, dtype, max(lr.shape[-2:]))
            fault = _fault(lr, sr)
            if dtype != torch.float32:
                self._count(finite=fault != NOT_FINITE)
            if fault is None and (dtype == torch.float32 or _shift(lr, sr) <= LARGEST_SHIFT or self._agrees(lr, sr)):
                return sr
        if fault is not None:
            raise EsrganError(f"the network gives {fault}, also in fp32: the model is broken or not for such pictures")
        return sr

    def _count(self, *, finite: bool) -> None:
        self._unfit[0] = 0 if finite else self._unfit[0] + 1
        if self._unfit[0] == PATIENCE:
            log.info("%s gives numbers that are not finite here: going on in fp32", self.dtype)

    def _agrees(self, lr: Tensor, sr: Tensor) -> bool:
        """Whether fp32 has the same mean colours where ``sr`` left those of ``lr`` most; not tried on small tiles.

        Then it is the network's way with such pictures, bilevel or saturated ones, and no fault of 16 bits.
        """
        if min(lr.shape[-2:]) < 2 * PROBE:
            return False
        off = F.avg_pool2d(lr - F.avg_pool2d(sr, self.scale), PROBE, stride=PROBE // 2).abs().amax((0, 1))
        row, column = divmod(int(off.argmax()), off.shape[1])
        top, left = row * PROBE // 2, column * PROBE // 2
        exact = self._in_memory(lr[..., top : top + PROBE, left : left + PROBE], torch.float32, PROBE)
        edge, side = PROBE // 4 * self.scale, PROBE // 2 * self.scale  # its border sees another picture
        top, left = top * self.scale + edge, left * self.scale + edge
        there = sr[..., top : top + side, left : left + side]
        return _shift(exact[..., edge : edge + side, edge : edge + side], there) <= LEVEL

    def _in_memory(self, lr: Tensor, dtype: torch.dtype, tile: int) -> Tensor:
        """Run the network; where memory runs out, in ever smaller tiles."""
        if tile < self._too_large.get(dtype, math.inf):
            try:
                return self._run(lr, dtype)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            self._too_large[dtype] = tile
        tile //= 2
        overlap = min(self.overlap, tile // 4)
        if tile < SMALLEST_TILE:
            elsewhere = "" if self.device.type == "cpu" else ", or --device cpu"
            raise EsrganError(
                f"out of memory on {self.device} even with tiles of {2 * tile} pixels;"
                f" free some, or use a smaller --model{elsewhere}"
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if not self._said_small_tiles:
            self._said_small_tiles = True
            log.warning("out of memory on %s: going on with tiles of %d pixels (--tile sets it)", self.device, tile)
        return tiled(lambda part: self._in_memory(part, dtype, tile), lr, scale=self.scale, tile=tile, overlap=overlap)

    def _run(self, lr: Tensor, dtype: torch.dtype) -> Tensor:
        sr = self._run_by(lambda: self._engine(lr, dtype))
        return sr.clamp(0, 1) if _finite(sr) else sr * 1  # a new one, so that it is an ordinary tensor


def _framed(lr: Tensor) -> Tensor:
    """A small tile with its edge pixels repeated around it: networks do not know pictures that are all border."""
    height, width = lr.shape[-2:]
    frame = [FRAME * (side < SMALL) for side in (width, width, height, height)]
    return F.pad(lr, frame, mode="replicate")


def _fault(lr: Tensor, sr: Tensor) -> str | None:
    if not _finite(sr):
        return NOT_FINITE
    maybe = _flat(sr[..., ::5, ::5])  # which nearly always settles it
    if maybe.any() and (maybe & _flat(sr) & ~_flat(lr, 8 * LEVEL)).any():
        return "one colour for a tile of several"
    return None


def _finite(image: Tensor) -> bool:
    return math.isfinite(float(image.sum()))  # in one pass, without a mask


def _flat(image: Tensor, most: float = LEVEL / 2) -> Tensor:
    """Which of the pictures are of one colour, (N,)."""
    return (image.amax((-2, -1)) - image.amin((-2, -1))).amax(1) < most


def _shift(lr: Tensor, sr: Tensor) -> float:
    return float((lr.mean((-2, -1)) - sr.mean((-2, -1))).abs().max())
