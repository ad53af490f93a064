"""The two stages of a training: PSNR-oriented pre-training, then GAN training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from esrgan import __version__, distributed
from esrgan.config import Config, PretrainConfig, TrainConfig
from esrgan.config_file import MACHINE, plain
from esrgan.device_patches import patches_for
from esrgan.devices import DTYPES
from esrgan.doctor import examine_store
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.jpeg import compressed_tensor
from esrgan.library import find_model
from esrgan.lpips import LPIPS
from esrgan.memory import is_out_of_memory
from esrgan.model_file import fingerprint, read_header, save_model
from esrgan.pairs import Pair, each_pair
from esrgan.photo_store import PhotoStore
from esrgan.run_dir import RunDir
from esrgan.team import build_team
from esrgan.tensorboard import Board
from esrgan.track import load_references
from esrgan.training import fit
from esrgan.training_setup import Setup
from esrgan.validation import Validation


def pretrain(config: PretrainConfig) -> Path:
    """Stage 1: train a generator with L1; gives the best model file of the run folder (the latest without validation).

    Raises:
        EsrganError: Bad options, no usable picture, a run folder of something else, or training diverged.
        KeyboardInterrupt: It was stopped; the same call goes on from there.
    """
    return _run(config)


def train(config: TrainConfig) -> Path:
    """Stage 2: GAN training from a stage-1 model; gives the best model file of the run folder.

    Raises:
        EsrganError: As ``pretrain``, or the VGG19 weights are not at hand.
        KeyboardInterrupt: It was stopped; the same call goes on from there.
    """
    return _run(config)


def with_init_path(config: Config) -> Config:
    """``config`` with the file of the model to begin from, which it may name as ``esrgan models`` lists it."""
    return replace(config, init=find_model(config.init)) if config.init else config


@contextmanager
def enough_memory() -> Iterator[None]:
    """Say what to do where a training, here or on its GPU, runs out of memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise EsrganError(
            "out of memory: halve --batch and double --accumulate (in stage 1 that is the same training), or take a"
            " smaller --patch, or smaller pictures in --val"
        ) from error


def photo_store(config: Config, scale: int) -> PhotoStore:
    """The decoded training pictures of a run; where several processes share a machine, its first one decodes."""
    if scale == 1:
        raise EsrganError("the model's scale is 1: its LR pictures would be the HR ones, and nothing to be learned")
    if config.patch % scale:
        raise EsrganError(f"patch is {config.patch}; it must be a multiple of the model's scale, {scale}")
    leads = distributed.local_rank() == 0
    if not leads:
        distributed.wait()
    store = PhotoStore.of(config.images, scale=scale, patch=config.patch, cache=config.cache,
                          subset=config.subset, seed=config.seed)  # fmt: skip
    if leads:
        distributed.wait()
    return store


def _run(config: Config) -> Path:
    with distributed.joined(), RunDir.opened(with_init_path(config)) as run, enough_memory():
        config = run.config
        watch = Board(run) if config.tensorboard and run.first else lambda _: None
        players, ema, objective, engine = team = build_team(config)
        net = team.result
        # before the training pictures, which may take minutes to decode
        validation = _validation(config, run, net, winograd=engine == "winograd")
        store = photo_store(config, net.scale)
        for line in _what_is_used(config, store, engine) if run.first else ():
            print(line)
        if run.first and not run.rows():
            for finding in examine_store(store, val=config.val, patch=config.patch):
                print(run.note(0, str(finding)))
        device = next(net.parameters()).device
        by_lpips = config.stage == "gan" and validation is not None and validation.lpips is not None
        provenance = _provenance(config, len(store), engine)

        def save_models(step: int, best: bool) -> None:
            about = {"step": step} | provenance | ({"validation": validation.newest} if best and validation else {})
            save_model(net, run.best if best else run.latest, provenance=about)

        setup = Setup(
            players=players,
            ema=ema,
            objective=objective,
            patches=patches_for(store, patch=config.patch, seed=config.seed, device=device, jpeg=config.jpeg),
            validate=validation,
            bicubic=validation.bicubic if validation else None,
            save_models=save_models,
            score="lpips" if distributed.anyone(by_lpips) else "psnr_y",
            init=fingerprint(config.init) if config.init else None,
            val=validation.digest if validation else None,
            references=load_references(config.stage, net.config, begun=config.init is not None),
            watch=watch,
        )
        fit(config, run, setup)
        return run.best if run.best.is_file() else run.latest


def _validation(config: Config, run: RunDir, net: Generator, *, winograd: bool = False) -> Validation | None:
    if not config.val or not run.first:
        return None
    skipped: list[str] = []
    pairs = (pair for path in config.val for pair in each_pair(path, net.scale, skipped=skipped))
    if config.jpeg:
        pairs = (through_jpeg(pair, config.jpeg, i) for i, pair in enumerate(pairs))
    choose: Callable[[dict[str, float | None]], float] = _psnr_rank
    if isinstance(config, TrainConfig):
        choose = partial(_gan_rank, config.psnr_floor)
    lpips = _lpips(config, next(net.parameters()).device)
    validation = Validation(run.samples, net, pairs, dtype=DTYPES[config.precision], lpips=lpips, choose=choose,
                            winograd=winograd)  # fmt: skip
    for line in skipped:
        print(f"  left out of the validation: {line}")
    return validation


def through_jpeg(pair: Pair, qualities: tuple[int, ...], i: int) -> Pair:
    """Validation pair number ``i`` with its LR from a JPEG file, of five qualities in turn from lowest to highest."""
    low, high = qualities
    return pair._replace(lr=compressed_tensor(pair.lr, low + (high - low) * (i % 5) // 4))


def _psnr_rank(scores: dict[str, float | None]) -> float:
    return scores["psnr_y"] or 0.0


def _gan_rank(floor: float, scores: dict[str, float | None]) -> float:
    """Larger is better: LPIPS where it is known, and never a model below the PSNR floor while one above it exists."""
    psnr, lpips = scores["psnr_y"] or 0.0, scores.get("lpips")
    if psnr < floor:
        return psnr - floor - 1000
    return psnr if lpips is None else -lpips


def _lpips(config: Config, device: torch.device) -> LPIPS | None:
    try:
        return LPIPS(config.lpips).to(device)
    except EsrganError as error:
        if config.lpips:
            raise
        chosen = "; the best model is chosen by PSNR-Y" if isinstance(config, TrainConfig) else ""
        print(f"LPIPS is left out{chosen}: {error}")
        return None


def _what_is_used(config: Config, store: PhotoStore, engine: str) -> Iterator[str]:
    pictures = f"{len(store)} training picture{'s' * (len(store) != 1)}"
    yield f"{pictures}, {len(store.skipped)} left out; {config.precision} arithmetic by {engine}"
    yield from (f"  left out: {line}" for line in store.skipped[:10])
    if len(store.skipped) > 10:
        yield f"  ... and {len(store.skipped) - 10} more, which `esrgan data check` lists"
    several = f", shared by {distributed.size()} processes" if distributed.size() > 1 else ""
    yield f"run folder: {config.run_dir}; {config.steps} steps of {config.batch * config.accumulate} patches{several}"


def _provenance(config: Config, pictures: int, engine: str) -> dict[str, Any]:
    """What a model file of this run says of where it comes from; names of files, never whole paths."""
    recipe = {name: _names_only(name, value) for name, value in plain(config).items() if name not in MACHINE}
    about: dict[str, Any] = {
        "stage": config.stage,
        "data": {"pictures": pictures, "folders": recipe.pop("images")},
        "recipe": recipe,
        "software": {"esrgan": __version__, "torch": torch.__version__, "engine": engine},
    }
    return about | ({"init": read_header(config.init).provenance} if config.init else {})


def _names_only(option: str, value: Any) -> Any:
    if option in ("images", "val"):
        return [Path(item).name for item in value]
    return Path(value).name if option == "init" else value
