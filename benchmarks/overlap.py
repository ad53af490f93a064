"""The overlap of tiles at which a tiled picture equals the whole one: largest and mean difference in 8-bit levels.

uv run python -m benchmarks.overlap docs/samples/*.png --model lite_x4_gan lite_x4_psnr
"""

from pathlib import Path
from typing import Annotated

import torch
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from esrgan.images import read_rgb
from esrgan.library import find_model
from esrgan.model_file import load_model
from esrgan.tiling import tiled

app = App(help=__doc__)


@app.default
@torch.inference_mode()
def main(
    pictures: list[Path],
    *,
    model: Annotated[list[str], Parameter(consume_multiple=True)] = ["lite_x4_gan"],  # noqa: B006
    overlap: Annotated[list[int], Parameter(consume_multiple=True)] = [4, 8, 12, 16, 20, 24, 32, 48, 64],  # noqa: B006
    kept: int = 64,
    middle: int | None = None,
) -> None:
    """Compare tiled with whole outputs in fp32.

    Args:
        pictures: LR pictures, the larger the better.
        model: Models by name or path.
        overlap: Those to try.
        kept: Side of what is kept of a tile; small, so that there are many seams.
        middle: Take only so many pixels a side from the middle of the pictures: large networks take long.
    """
    table = Table("model", "overlap", "largest", "mean", box=None)
    for name in model:
        network = load_model(find_model(name)).to(memory_format=torch.channels_last)
        images = [_middle(read_rgb(path)[None], middle) for path in pictures]
        whole = [network(image).clamp(0, 1) for image in images]
        for pixels in overlap:
            apart = [
                255
                * (tiled(network, x, scale=network.scale, tile=kept + 2 * pixels, overlap=pixels).clamp(0, 1) - y).abs()
                for x, y in zip(images, whole, strict=True)
            ]
            largest, mean = max(d.max().item() for d in apart), sum(d.mean().item() for d in apart) / len(apart)
            table.add_row(Path(name).stem, str(pixels), f"{largest:.3f}", f"{mean:.5f}")
    Console().print(table)


def _middle(image: Tensor, side: int | None) -> Tensor:
    if side is None:
        return image
    top, left = (max(0, (size - side) // 2) for size in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


if __name__ == "__main__":
    app()
