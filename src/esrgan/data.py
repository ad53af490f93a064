"""Training data: pictures decoded once, patches cut from them by (seed, step) alone."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esrgan.errors import EsrganError
from esrgan.files import write_text
from esrgan.images import find_images, read_bytes8
from esrgan.resize import make_lr

PIECE = 64 << 20
"""Bytes copied to a device at a time."""

Bytes = NDArray[np.uint8]
Rows = NDArray[np.int64]


def default_cache() -> Path:
    """The user's cache folder for decoded pictures."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esrgan" / "photos"


class PhotoStore:
    """HR pictures and the LR made from each whole picture, decoded to 8-bit RGB in two memory-mapped files.

    Pictures are cropped at the right and bottom to a multiple of the scale. A folder that holds a store already built
    from the same files is used as it is.

    Attributes:
        shapes: (rows, columns) of every LR picture.
        skipped: One line for every file left out: broken, or smaller than the patch.
        digest: Hash of all pixels, by which a resumed run knows its pictures again, wherever they lie.
    """

    def __init__(self, folder: Path, scale: int) -> None:
        self.folder, self.scale = folder, scale
        damaged = f"the decoded pictures in {folder} are damaged; delete that folder and start again"
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            self.shapes: list[tuple[int, int]] = [(rows, columns) for rows, columns in index["shapes"]]
            self.skipped: list[str] = index["skipped"]
            self.names: list[str] = index["names"]
            self.digest: str | None = index.get("digest")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EsrganError(damaged) from error
        if not self.shapes:
            raise EsrganError(f"none of the training pictures can be used: {'; '.join(self.skipped[:3])}")
        self._starts = np.cumsum([0] + [3 * rows * columns for rows, columns in self.shapes])
        try:
            self._lr, self._hr = _mapped(folder / "lr"), _mapped(folder / "hr")
        except (OSError, ValueError) as error:  # not there, or empty
            raise EsrganError(damaged) from error
        if (len(self._lr), len(self._hr)) != (self._starts[-1], self._starts[-1] * scale**2):
            raise EsrganError(damaged)

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
        key = hashlib.sha256(json.dumps([scale, patch, stats]).encode()).hexdigest()[:24]
        folder = (cache or default_cache()) / key
        if not (folder / "index.json").is_file():
            _build(paths, folder, scale, patch)
        return cls(folder, scale)

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def bytes(self) -> int:
        """Size of all decoded pixels."""
        return len(self._lr) + len(self._hr)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """All LR and all HR pixels, picture after picture, (pixels, 3) uint8, copied to ``device``."""
        copies = []
        for mapped in (self._lr, self._hr):
            copy = torch.empty(len(mapped), dtype=torch.uint8, device=device)
            for start in range(0, len(mapped), PIECE):
                piece = torch.from_numpy(mapped[start : start + PIECE].copy())
                copy[start : start + len(piece)] = piece
            copies.append(copy.view(-1, 3))
        return copies[0], copies[1]

    def picture(self, i: int) -> tuple[Bytes, Bytes]:
        """LR and HR of picture ``i``, (rows, columns, 3) each, as views of the mapped files."""
        rows, columns = self.shapes[i]
        start, end, s = self._starts[i], self._starts[i + 1], self.scale
        hr = self._hr[start * s * s : end * s * s].reshape(rows * s, columns * s, 3)
        return self._lr[start:end].reshape(rows, columns, 3), hr


class Patches:
    """Augmented training patches of a store; what a step gets depends on (seed, step) and nothing else.

    Every position of every picture is equally likely, and so are the eight flips and transposes.

    Args:
        store: The pictures.
        patch: Side of the HR crop, a multiple of the scale.
        seed: Another seed, other patches.
    """

    def __init__(self, store: PhotoStore, *, patch: int, seed: int) -> None:
        self.store, self.side, self.seed = store, patch // store.scale, seed
        positions = [(rows - self.side + 1) * (columns - self.side + 1) for rows, columns in store.shapes]
        self._ends = np.cumsum(positions)

    def __call__(self, step: int, count: int, rows: Rows | None = None) -> tuple[Tensor, Tensor]:
        """The ``count`` patches of ``step``: LR (count, 3, h, w) and HR, uint8; of these only ``rows``, if given."""
        random = np.random.default_rng((self.seed, step))
        picks = random.integers(0, self._ends[-1], count)
        turns = random.integers(0, 8, count)
        if rows is not None:
            picks, turns = picks[rows], turns[rows]
        return self.cut(*self._places(picks), turns)

    def _places(self, picks: Rows) -> tuple[Rows, Rows, Rows]:
        """Numbers of positions -> pictures, and LR rows and columns in them where the patches begin."""
        pictures = np.searchsorted(self._ends, picks, side="right")
        widths = np.array([columns for _, columns in self.store.shapes])[pictures] - self.side + 1
        y, x = np.divmod(self._ends[pictures] - 1 - picks, widths)
        return pictures, y, x

    def cut(self, pictures: Rows, y: Rows, x: Rows, turns: Rows) -> tuple[Tensor, Tensor]:
        """Patches at LR positions ``y``, ``x`` of ``pictures``: LR and HR, (N, 3, h, w) uint8."""
        side, scale = self.side, self.store.scale
        lr = np.empty((len(turns), 3, side, side), np.uint8)
        hr = np.empty((len(turns), 3, side * scale, side * scale), np.uint8)
        places = zip(pictures.tolist(), y.tolist(), x.tolist(), turns.tolist(), strict=True)
        for n, (i, top, left, turn) in enumerate(places):
            small, large = self.store.picture(i)
            square = small[top : top + side, left : left + side]
            lr[n] = turned(square, turn).transpose(2, 0, 1)
            square = large[top * scale : (top + side) * scale, left * scale : (left + side) * scale]
            hr[n] = turned(square, turn).transpose(2, 0, 1)
        return torch.from_numpy(lr), torch.from_numpy(hr)

    def ahead(
        self, first: int, last: int, count: int, rows: Rows | None = None
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(step, lr, hr) for the steps ``first`` to ``last``, each cut by a thread while the one before is used."""
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self, first, count, rows)
            for step in range(first, last + 1):
                lr, hr = coming.result()
                if step < last:
                    coming = pool.submit(self, step + 1, count, rows)
                yield step, lr, hr


def share_of_batch(batch: int, accumulate: int, rank: int, size: int) -> Rows:
    """Which of a step's patches process ``rank`` of ``size`` takes: its part of every forward pass, in order.

    Raises:
        EsrganError: The batch cannot be divided so.
    """
    if batch % size:
        raise EsrganError(f"batch is {batch}; {size} processes share it, so it must be a multiple of {size}")
    return np.arange(batch * accumulate).reshape(accumulate, size, -1)[:, rank].ravel()


def turned(image: Bytes, turn: int) -> Bytes:
    """One of the eight flips and transposes (0 to 7; 0 = as it is) of a square (rows, columns, 3) image."""
    image = image.transpose(1, 0, 2) if turn & 4 else image
    image = image[::-1] if turn & 2 else image
    return image[:, ::-1] if turn & 1 else image


def to_unit(image: Tensor, device: torch.device | str) -> Tensor:
    """uint8 0 to 255 -> float [0, 1] on ``device``, channels last in memory."""
    return image.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last).float().div_(255)


def _mapped(path: Path) -> Bytes:
    """A file's bytes, read as they are used; as a plain array, for slices of a ``memmap`` take four times as long."""
    return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        return path.stat().st_size, path.stat().st_mtime_ns
    except OSError:  # a broken link, for instance: decoding it will say so
        return 0, 0


def _build(paths: Sequence[Path], folder: Path, scale: int, patch: int) -> None:
    building = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        _sweep(folder.parent)
        building.mkdir(parents=True)
        with (building / "lr").open("wb") as lr, (building / "hr").open("wb") as hr:
            index = _decode_all(paths, lr, hr, scale, patch)
            for file in (lr, hr):  # so that no power cut leaves an index of pictures that are not there
                file.flush()
                os.fsync(file.fileno())
        write_text(building / "index.json", json.dumps(index))
        if not (folder / "index.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)  # what is left of one that somebody deleted half of
            building.rename(folder)
    except OSError as error:
        raise EsrganError(
            f"cannot write decoded pictures to {folder.parent} ({error.strerror}); use --cache"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _decode_all(
    paths: Sequence[Path], lr_file: IO[bytes], hr_file: IO[bytes], scale: int, patch: int
) -> dict[str, Any]:
    shapes, names, skipped = [], [], []
    digest = hashlib.sha256()

    def decode(path: Path) -> tuple[Bytes, Bytes] | str:
        try:
            hr = read_bytes8(path).numpy()
        except EsrganError as error:
            return str(error)
        rows, columns = (side // scale * scale for side in hr.shape[:2])
        if min(rows, columns) < patch:
            return f"{path}: {hr.shape[1]} x {hr.shape[0]} pixels, smaller than the patch of {patch}"
        hr = np.ascontiguousarray(hr[:rows, :columns])
        lr = make_lr(torch.from_numpy(hr).permute(2, 0, 1).float() / 255, scale) * 255
        return lr.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy(), hr

    with ThreadPoolExecutor(2) as pool:  # two at a time, so that few decoded pictures wait in memory
        for start in range(0, len(paths), 8):
            for path, result in zip(paths[start:], pool.map(decode, paths[start : start + 8]), strict=False):
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
        if time.time() - part.stat().st_mtime > 86_400:
            shutil.rmtree(part, ignore_errors=True)
