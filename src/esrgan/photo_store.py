"""Training pictures, decoded once: HR and the LR made from each, in two files that are mapped into memory."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esrgan.errors import EsrganError
from esrgan.files import home, move, write_text
from esrgan.images import find_images, read_bytes8
from esrgan.in_threads import in_threads
from esrgan.resize import make_lr

FORMAT = 2
"""To be raised when other pixels come of the same files, by another reader or another reduction."""

Bytes = NDArray[np.uint8]


def default_cache() -> Path:
    """The user's cache folder for decoded pictures.

    Raises:
        EsrganError: The user has no home folder, and no other place is named.
    """
    return home("XDG_CACHE_HOME", ".cache", instead="--cache") / "esrgan" / "photos"


class PhotoStore:
    """HR pictures and the LR made from each whole picture, decoded to 8-bit RGB in two memory-mapped files.

    Pictures are cropped at the right and bottom to a multiple of the scale. A folder that holds a store already built
    from the same files is used as it is, for patches of any size.

    Args:
        folder: Where it lies.
        scale: HR over LR size.
        patch: HR crop that every picture must hold; smaller ones are left out.

    Attributes:
        shapes: (rows, columns) of every LR picture.
        skipped: One line for every file left out: broken, or smaller than the patch.
        digest: Hash of all pixels, by which a resumed run knows its pictures again, wherever they lie.
    """

    def __init__(self, folder: Path, scale: int, patch: int) -> None:
        self.folder, self.scale = folder, scale
        damaged = f"the decoded pictures in {folder} are damaged; delete that folder and start again"
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            shapes: list[tuple[int, int]] = [(rows, columns) for rows, columns in index["shapes"]]
            self.skipped: list[str] = index["skipped"]
            names: list[str] = index["names"]
            self.digest: str | None = index.get("digest")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EsrganError(damaged) from error
        large = [i for i, shape in enumerate(shapes) if scale * min(shape) >= patch]
        for i in sorted(set(range(len(shapes))) - set(large)):
            rows, columns = (scale * side for side in shapes[i])
            self.skipped.append(f"{names[i]}: {columns} x {rows} pixels, smaller than the patch of {patch}")
        if not large:
            raise EsrganError(f"none of the training pictures can be used: {'; '.join(self.skipped[:3])}")
        if len(large) < len(shapes):
            self.digest = hashlib.sha256(f"{self.digest} {large}".encode()).hexdigest()
        starts = np.cumsum([0] + [3 * rows * columns for rows, columns in shapes])
        try:
            self._lr, self._hr = _mapped(folder / "lr"), _mapped(folder / "hr")
        except (OSError, ValueError) as error:  # not there, or empty
            raise EsrganError(damaged) from error
        if (len(self._lr), len(self._hr)) != (starts[-1], starts[-1] * scale**2):
            raise EsrganError(damaged)
        self._starts = starts[large]
        self.shapes, self.names = [shapes[i] for i in large], [names[i] for i in large]

    @classmethod
    def of(cls, images: Sequence[Path], *, scale: int, patch: int, cache: Path | None = None, subset: float = 1.0,
           seed: int = 0) -> "PhotoStore":  # fmt: skip
        """The store of ``images`` (folders, files, .txt lists), built on first use.

        Args:
            images: Where the pictures are.
            scale: HR over LR size.
            patch: HR crop that every picture must hold.
            cache: Folder for stores; none = the user's cache folder.
            subset: Share of the pictures to use, chosen by ``seed``.
            seed: Chooses the subset.

        Raises:
            EsrganError: No picture of these can be used, or the cache cannot be written.
        """
        paths = find_images(images)
        if subset < 1:
            kept = np.random.default_rng(seed).permutation(len(paths))[: max(1, round(subset * len(paths)))]
            paths = [paths[i] for i in sorted(kept)]
        stats = [(str(path.absolute()), *_size_and_time(path)) for path in paths]
        key = hashlib.sha256(json.dumps([FORMAT, scale, stats]).encode()).hexdigest()[:24]
        folder = (cache or default_cache()) / key
        if not (folder / "index.json").is_file():
            _build(paths, folder, scale)
        return cls(folder, scale, patch)

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def bytes(self) -> int:
        """Size of LR and HR, decoded."""
        return sum(3 * rows * columns for rows, columns in self.shapes) * (1 + self.scale**2)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """All LR and all HR pixels, picture after picture, (pixels, 3) uint8, copied to ``device``."""
        lr = torch.empty(self.bytes // (1 + self.scale**2), dtype=torch.uint8, device=device)
        hr = lr.new_empty(len(lr) * self.scale**2)
        places = [0, 0]
        for pair in map(self.picture, range(len(self))):
            for k, (out, pixels) in enumerate(zip((lr, hr), pair, strict=True)):
                start, places[k] = places[k], places[k] + pixels.size
                out[start : places[k]] = torch.from_numpy(pixels.flatten())
        return lr.view(-1, 3), hr.view(-1, 3)

    def picture(self, i: int) -> tuple[Bytes, Bytes]:
        """LR and HR of picture ``i``, (rows, columns, 3) each, as views of the mapped files."""
        rows, columns = self.shapes[i]
        start, s = self._starts[i], self.scale
        end = start + 3 * rows * columns
        hr = self._hr[start * s * s : end * s * s].reshape(rows * s, columns * s, 3)
        return self._lr[start:end].reshape(rows, columns, 3), hr


def _mapped(path: Path) -> Bytes:
    """A file's bytes, read as they are used; as a plain array, for slices of a ``memmap`` take four times as long."""
    return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        return path.stat().st_size, path.stat().st_mtime_ns
    except OSError:  # a broken link, for instance: decoding it will say so
        return 0, 0


def _build(paths: Sequence[Path], folder: Path, scale: int) -> None:
    building = folder.with_name(f"{folder.name}.{token_hex(8)}.part")  # another process may build it too
    try:
        _sweep(folder.parent)
        building.mkdir(parents=True)
        with (building / "lr").open("wb") as lr, (building / "hr").open("wb") as hr:
            index = _decode_all(paths, lr, hr, scale)
            for file in (lr, hr):  # so that no power cut leaves an index of pictures that are not there
                file.flush()
                os.fsync(file.fileno())
        write_text(building / "index.json", json.dumps(index))
        if not (folder / "index.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)  # what is left of one that somebody deleted half of
            move(building, folder)
    except OSError as error:
        raise EsrganError(
            f"cannot write decoded pictures to {folder.parent} ({error.strerror}); use --cache"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _decode_all(paths: Sequence[Path], lr_file: IO[bytes], hr_file: IO[bytes], scale: int) -> dict[str, Any]:
    shapes, names, skipped = [], [], []
    digest = hashlib.sha256()

    def decode(path: Path) -> tuple[Bytes, Bytes] | str:
        try:
            hr = read_bytes8(path).numpy()
        except EsrganError as error:
            return str(error)
        rows, columns = (side // scale * scale for side in hr.shape[:2])
        if not min(rows, columns):
            return f"{path}: {hr.shape[1]} x {hr.shape[0]} pixels, less than one of its LR picture"
        hr = np.ascontiguousarray(hr[:rows, :columns])
        lr = make_lr(torch.from_numpy(hr).permute(2, 0, 1).float() / 255, scale) * 255
        return lr.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy(), hr

    for path, result in zip(paths, in_threads(decode, paths), strict=True):
        if isinstance(result, str):
            skipped.append(result)
            continue
        lr, hr = result
        shapes.append(lr.shape[:2])
        names.append(str(path))
        lr_file.write(lr.data)
        hr_file.write(hr.data)
        digest.update(hr.data)
    digest.update(json.dumps(shapes).encode())
    return {"shapes": shapes, "names": names, "skipped": skipped, "digest": digest.hexdigest()}


def _sweep(cache: Path) -> None:
    """Remove what interrupted builds left more than a day ago."""
    for part in cache.glob("*.part"):
        with suppress(OSError):  # another process was faster
            newest = max(path.stat().st_mtime for path in (part, *part.iterdir()))  # its files grow, it does not
            if time.time() - newest > 86_400:
                shutil.rmtree(part, ignore_errors=True)
