"""Scores of a model on benchmark folders: what the verb ``test`` prints."""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from esrgan.errors import EsrganError, told
from esrgan.files import write_text
from esrgan.images import write_rgb
from esrgan.jpeg import check_quality, compressed_tensor
from esrgan.lpips import LPIPS
from esrgan.metrics import PROTOCOL, colour_shift, grid_energy, overshoot, psnr_y, ssim_y, to_grey, unevenness
from esrgan.pairs import HR_FOLDERS, PairFiles, find_pairs, read_pair
from esrgan.resize import quantise
from esrgan.stand_ins import Pictures

SCORES = ("psnr_y", "ssim_y", "lpips", "grid2", "grid4", "unevenness", "overshoot", "colour_shift")


class Model(Protocol):
    """Something that enlarges: RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale * H, scale * W)."""

    @property
    def scale(self) -> int:
        """How many times larger the output is."""
        ...

    def __call__(self, image: Tensor, /) -> Tensor: ...


def score(
    sr: Tensor, hr: Tensor, *, border: int, lpips: LPIPS | None = None, grey: bool = False
) -> dict[str, float | None]:
    """Every measure of one picture, by name; ``lpips`` is None without that network.

    Args:
        sr: Super-resolved picture in [0, 1], (1, 3, H, W).
        hr: Real picture, of the same shape.
        border: Pixels left out by PSNR and SSIM on every side: the scale.
        lpips: The network, where LPIPS is wanted.
        grey: ``hr`` comes from a grey file, which papers measure on its own values.
    """
    sr = quantise(sr.to(hr.device).float())
    one, other = (to_grey(sr), to_grey(hr)) if grey else (sr, hr)
    found: dict[str, Tensor | None] = {
        "psnr_y": psnr_y(one, other, border=border),
        "ssim_y": ssim_y(one, other, border=border),
        "lpips": lpips(sr.to(lpips.shift.device), hr.to(lpips.shift.device)) if lpips else None,
        "grid2": grid_energy(sr, hr, period=2),
        "grid4": grid_energy(sr, hr, period=4),
        "unevenness": unevenness(sr, period=max(2, border)),
        "overshoot": overshoot(sr, hr),
        "colour_shift": colour_shift(sr, hr),
    }
    return {name: None if value is None else value.item() for name, value in found.items()}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture: its scores, the seconds the model took; or why there are none."""

    name: str
    scores: dict[str, float | None]
    seconds: float | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON file; what is infinite or unknown is None."""
        numbers = {name: _finite(value) for name, value in {**self.scores, "seconds": self.seconds}.items()}
        return {"name": self.name, **numbers, **({"error": self.error} if self.error else {})}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A benchmark folder's rows."""

    name: str
    rows: list[Row]
    given_lr: bool = False
    """Whether the LR pictures came with it; else they were made from HR by bicubic."""

    def mean(self, score_name: str) -> float | None:
        """Mean over the pictures of a score, or of ``seconds``; None if no picture has it."""
        values = [row.to_dict()[score_name] for row in self.rows]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    def known(self, score_name: str) -> int:
        """How many of the pictures have a finite score of this name."""
        return sum(row.to_dict()[score_name] is not None for row in self.rows)

    @property
    def measured(self) -> int:
        """How many of the pictures could be measured."""
        return sum(row.error is None for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON file."""
        means = {name: self.mean(name) for name in (*SCORES, "seconds")}
        return {"name": self.name, **means, "images": [row.to_dict() for row in self.rows]}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a model scored, and by which protocol."""

    model: str
    protocol: str
    datasets: list[Dataset]

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON file."""
        return {
            "model": self.model,
            "protocol": self.protocol,
            "datasets": [dataset.to_dict() for dataset in self.datasets],
        }

    def save(self, path: Path | str) -> None:
        """Write the report as a JSON file."""
        write_text(Path(path), json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @property
    def errors(self) -> list[str]:
        """One line for every picture that could not be measured."""
        return [row.error for dataset in self.datasets for row in dataset.rows if row.error]


Track = Callable[[Sequence[PairFiles], str], Iterable[PairFiles]]


def evaluate(
    model: Model,
    datasets: Sequence[Path | str] | Path | str,
    *,
    name: str | None = None,
    lpips: LPIPS | None = None,
    jpeg: int | None = None,
    save: Path | None = None,
    track: Track = lambda files, _: files,
) -> Report:
    """Score ``model`` on every picture of ``datasets``; a picture that cannot be measured is named in its row.

    Args:
        model: An ``Upscaler``, a ``Bicubic`` or anything like them.
        datasets: A folder as ``find_pairs`` takes it, or several.
        name: What the report calls the model; none = its ``name``, or else its class.
        lpips: The network, where LPIPS is wanted.
        jpeg: Quality, 1 to 100, of the JPEG files that LR pictures go through first; none = as they are.
        save: Folder for the pictures that were measured, as DATASET/NAME.png; none = they are not kept.
        track: Passes on the files of a dataset, given its name; a progress bar, for instance.

    Raises:
        EsrganError: A dataset that is not there or has no pictures; two that ``save`` has one name for.
    """
    if jpeg is not None:
        check_quality(jpeg)
    if steady := getattr(model, "steady", None):
        steady()
    folders = [Path(folder) for folder in ([datasets] if isinstance(datasets, str | Path) else datasets)]
    found = [(_name(folder.resolve()), find_pairs(folder, model.scale)) for folder in folders]
    if save:
        _refuse_equal_names(save, found)
    scored = [
        Dataset(
            name=dataset,
            rows=list(_rows(model, track(files, dataset), dataset, lpips=lpips, jpeg=jpeg, save=save)),
            given_lr=any(f.lr for f in files),
        )
        for dataset, files in found
    ]
    without = "" if lpips else "; LPIPS left out, as its weights are not at hand"
    computed = f"; computed: {about}" if (about := getattr(model, "about", "")) else ""  # engine, arithmetic, tiles
    made = ", ".join(dict.fromkeys(dataset.name for dataset in scored if not dataset.given_lr))
    made = f"; LR of {made} made from HR by bicubic" if made else ""
    made += f"; LR from JPEG files of quality {jpeg} (4:2:0)" if jpeg else ""
    return Report(
        model=name or getattr(model, "name", None) or type(model).__name__,
        protocol=f"x{model.scale}; {PROTOCOL}{made}{without}{computed}",
        datasets=scored,
    )


def _refuse_equal_names(save: Path, found: Sequence[tuple[str, Sequence[PairFiles]]]) -> None:
    first: dict[tuple[str, str], Path] = {}
    for dataset, files in found:
        for each in files:
            other = first.setdefault((dataset, each.hr.stem), each.hr)
            if other is not each.hr:
                name = save / dataset / f"{each.hr.stem}.png"
                raise EsrganError(f"{other} and {each.hr} would both be saved as {name}; test them one by one")


def _name(folder: Path) -> str:
    """What a dataset is called: Set14, be it Set14, Set14/HR or Set14/x4/HR."""
    while folder.parent.name and (folder.name.lower() in HR_FOLDERS or re.fullmatch(r"[xX]\d+", folder.name)):
        folder = folder.parent
    return folder.name


@torch.inference_mode()
def _rows(
    model: Model, files: Iterable[PairFiles], dataset: str, *, lpips: LPIPS | None, jpeg: int | None, save: Path | None
) -> Iterator[Row]:
    model(torch.zeros(1, 3, 16, 16))  # what only the first call needs is not counted in seconds
    for each in files:
        try:
            pair = read_pair(each, model.scale)
            lr = compressed_tensor(pair.lr, jpeg) if jpeg else pair.lr
            start = time.perf_counter()
            sr = model.of(dataset, pair) if isinstance(model, Pictures) else model(lr[None]).cpu()
            seconds = time.perf_counter() - start
            if save:
                write_rgb(sr[0], save / dataset / f"{pair.name}.png")
            scores = score(sr, pair.hr[None], border=model.scale, lpips=lpips, grey=pair.grey)
            yield Row(name=pair.name, scores=scores, seconds=seconds)
        except EsrganError as error:
            yield Row(name=each.hr.stem, scores=dict.fromkeys(SCORES), error=told(error, each.hr))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
