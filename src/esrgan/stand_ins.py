"""What is measured in the place of a network: bicubic enlargement, and pictures that some program wrote."""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from esrgan.errors import EsrganError
from esrgan.images import find_images, read_rgb
from esrgan.pairs import Pair
from esrgan.resize import resize


@dataclass(frozen=True)
class Bicubic:
    """MATLAB's ``imresize`` of an 8-bit picture as a model."""

    scale: int = 4

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise EsrganError(f"the scale is {self.scale}; it must be at least 1")

    def __call__(self, image: Tensor) -> Tensor:
        return resize(image, self.scale, eight_bit=True)


@dataclass(frozen=True)
class Pictures:
    """SR pictures that some program wrote, in the place of a model: ``FOLDER/DATASET/NAME.png`` or ``FOLDER/NAME.png``.

    After NAME, the HR picture's, more may follow that begins with ``_``, ``-`` or ``x``: ``baby_x4_SR.png``.
    """

    folder: Path
    scale: int = 4

    def __call__(self, image: Tensor) -> Tensor:
        return resize(image, self.scale)

    def of(self, dataset: str, pair: Pair) -> Tensor:
        """The picture of ``pair``, (1, 3, H, W).

        Raises:
            EsrganError: There is none or more than one; or it cannot be read, or has another size than HR.
        """
        place = self.folder / dataset if (self.folder / dataset).is_dir() else self.folder
        images = [path for path in find_images([place]) if path.parent == place]
        found = [path for path in images if path.stem == pair.name] or [
            path for path in images if re.match(rf"{re.escape(pair.name)}[-_x]", path.stem)
        ]
        if len(found) != 1:
            raise EsrganError(f"{place} has {len(found) or 'no'} pictures called {pair.name}; one is wanted")
        sr = read_rgb(found[0])
        if sr.shape != pair.hr.shape:
            sizes = [f"{image.shape[2]} x {image.shape[1]}" for image in (sr, pair.hr)]
            raise EsrganError(f"{found[0]} has {sizes[0]} pixels; HR, as far as LR goes, has {sizes[1]}")
        return sr[None]
