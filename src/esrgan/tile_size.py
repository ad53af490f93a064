"""How large the tiles of a picture are, and how far they overlap, where nobody says it."""

import torch

from esrgan.generator import Generator
from esrgan.memory import free_bytes
from esrgan.other_network import OtherNetwork

SHALLOW, OVERLAP, DEEP_OVERLAP = 8, 16, 32
"""LR pixels read around a tile, for networks of up to 8 blocks and for others: deep ones see farther."""
KEPT = 256
"""Side of what is kept of a tile where memory is scarce."""
VULKAN_TILE = 200
"""Of a laptop's GPU: what Real-ESRGAN's ncnn program takes at most."""
ROOMY = {"cpu": ((8 << 30, 512),), "cuda": ((20 << 30, 1024), (5 << 30, 512))}
"""With more free bytes than the first, the second is the side kept. The full network at x4 needs half, in fp32 more.

Sides divide many others; tiles of large ones share less of what they read, and take more memory.
"""


def usual_overlap(network: Generator | OtherNetwork, tile: int | None) -> int:
    """LR pixels to read around every tile of that network, where tiles of ``tile`` pixels, if given, have the room."""
    shallow = isinstance(network, Generator) and network.config.blocks <= SHALLOW
    usual = OVERLAP if shallow else DEEP_OVERLAP
    return usual if tile is None else max(OVERLAP, min(usual, tile // 4))


def usual_tile(device: torch.device, overlap: int, scale: int, *, vulkan: bool) -> int:
    """Side of the tiles that the free memory of ``device`` allows, in LR pixels, the overlap included."""
    if vulkan:  # whose memory is not the computer's
        return VULKAN_TILE
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes() or 0
    larger = max(1, scale / 4) ** 2  # memory grows with the result's area; ``ROOMY`` is for x4
    sides = (side for needed, side in ROOMY.get(device.type, ()) if free > needed * larger)
    return 2 * overlap + next(sides, KEPT)
