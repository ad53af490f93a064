"""The two stages of a training: PSNR-oriented pre-training, then GAN training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esrgan import __version__
from esrgan.benchmark import Pair, load_pairs, score
from esrgan.config import PretrainConfig, RunConfig, TrainConfig, plain
from esrgan.data import Patches, PhotoStore
from esrgan.devices import pick_device, pick_precision
from esrgan.discriminator import Discriminator
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.images import write_rgb
from esrgan.metrics import LPIPS
from esrgan.model_file import load_model, read_header, save_model
from esrgan.objectives import Objective, gan_objective, psnr_objective
from esrgan.players import Average, Player
from esrgan.resize import resize
from esrgan.run_dir import RunDir
from esrgan.training import Game, Validate, fit
from esrgan.vgg import VGGFeatures

SAMPLES = 4  # validation pictures of which a crop is kept
SAMPLE_SIDE = 192  # of that crop, HR pixels


def pretrain(config: PretrainConfig) -> Path:
    """Stage 1: train a generator with L1; gives the best model file of the run folder (the latest without validation).

    Raises:
        EsrganError: Bad options, no usable picture, a run folder of something else, or training diverged.
    """
    with RunDir.opened(config) as run:
        generator, average = _generators(config, lambda: _first_generator(config))
        objective = psnr_objective(generator)
        return _run(config, run, {"generator": generator}, average, objective, _psnr_rank)


def train(config: TrainConfig) -> Path:
    """Stage 2: GAN training from a stage-1 model; gives the best model file of the run folder.

    Raises:
        EsrganError: As ``pretrain``, or the VGG19 weights are not at hand.
    """
    with RunDir.opened(config) as run:
        generator, average = _generators(config, lambda: load_model(config.init))
        shape = config.discriminator
        device = generator.parameters[0].device
        critic = Discriminator(shape.channels, shape.batch_norm).to(device)
        discriminator = Player(critic, config.optim, steps=config.steps, dtype=generator.dtype)
        features = (
            VGGFeatures(config.vgg, layers=config.weights.layers).to(device).to(memory_format=torch.channels_last)
        )
        objective = gan_objective(generator, discriminator, features, config.weights)
        players = {"generator": generator, "discriminator": discriminator}
        return _run(config, run, players, average, objective, partial(_gan_rank, config.psnr_floor))


def _psnr_rank(scores: dict[str, float | None]) -> float:
    return scores["psnr_y"] or 0.0


def _gan_rank(floor: float, scores: dict[str, float | None]) -> float:
    """Larger is better: LPIPS where it is known, and never a model below the PSNR floor while one above it exists."""
    psnr, lpips = scores["psnr_y"] or 0.0, scores.get("lpips")
    if psnr < floor:
        return psnr - floor - 1000
    return psnr if lpips is None else -lpips


def _first_generator(config: PretrainConfig) -> Generator:
    generator = Generator(config.generator, start=config.start)
    if config.init:
        given = load_model(config.init).state_dict()
        mine = generator.state_dict()
        fitting = {name: w for name, w in given.items() if name in mine and mine[name].shape == w.shape}
        if not fitting:
            raise EsrganError(f"no weight of {config.init} fits the network of this run; check --generator options")
        generator.load_state_dict(mine | fitting)
    return generator


def _generators(config: RunConfig, first: Callable[[], Generator]) -> tuple[Player, Average | None]:
    """The generator as a player, and the average of its weights."""
    torch.manual_seed(config.seed)
    device = pick_device(config.device)
    dtype = pick_precision(config.precision, device, training=True)
    net = first().to(device)
    assert isinstance(config, PretrainConfig | TrainConfig)
    player = Player(net, config.optim, steps=config.steps, dtype=dtype)
    if not config.ema:
        return player, None
    return player, Average(net, Generator(net.config, start="paper").to(device), config.ema)


def _run(
    config: RunConfig,
    run: RunDir,
    players: dict[str, Player],
    average: Average | None,
    objective: Objective,
    rank: Callable[[dict[str, float | None]], float],
) -> Path:
    net = average.net if average else players["generator"].net
    assert isinstance(net, Generator)
    if config.patch % net.scale:
        raise EsrganError(f"patch is {config.patch}; it must be a multiple of the model's scale, {net.scale}")
    store = PhotoStore.of(config.images, scale=net.scale, patch=config.patch, cache=config.cache,
                          subset=config.subset, seed=config.seed)  # fmt: skip
    _say_what_is_used(config, run, store, players["generator"].dtype)
    last: dict[str, Any] = {}
    validate = _validation(config, run, net, players["generator"].dtype, rank, last)

    def save_models(step: int, best: bool) -> None:
        about = _provenance(config, len(store), step) | ({"validation": dict(last)} if best else {})
        save_model(net, run.best if best else run.latest, provenance=about)

    patches = Patches(store, patch=config.patch, seed=config.seed)
    fit(config, run, Game(players=players, average=average, objective=objective, patches=patches, validate=validate,
                          save_models=save_models))  # fmt: skip
    return run.best if run.best.is_file() else run.latest


def _validation(
    config: RunConfig, run: RunDir, net: Generator, dtype: torch.dtype,
    rank: Callable[[dict[str, float | None]], float], last: dict[str, Any],
) -> Validate | None:  # fmt: skip
    """How the run is validated; ``last`` keeps the newest scores."""
    if not config.val:
        return None
    pairs = [pair for path in config.val for pair in load_pairs(path, net.scale)]
    device = next(net.parameters()).device
    lpips = _lpips(config, run, device)

    def validate(step: int) -> tuple[dict[str, float | None], float]:
        was_training = net.training
        net.eval()
        rows = [_scored(net, pair, dtype, lpips) for pair in pairs]
        net.train(was_training)
        _save_samples(pairs, [sr for _, sr in rows], run.samples / f"step_{step:07}.png", net.scale)
        names = rows[0][0].keys()
        scores = {name: _mean([row[name] for row, _ in rows]) for name in names}
        last.clear()
        last.update(scores, pictures=len(pairs))
        return scores, rank(scores)

    return validate


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@torch.inference_mode()
def _scored(net: nn.Module, pair: Pair, dtype: torch.dtype, lpips: LPIPS | None) -> tuple[dict[str, Any], Tensor]:
    device = next(net.parameters()).device
    lr, hr = pair.lr[None].to(device), pair.hr[None].to(device)
    with torch.autocast(device.type, dtype, dtype != torch.float32):
        sr = net(lr.contiguous(memory_format=torch.channels_last)).float().clamp(0, 1)
    return dict(score(sr, hr, border=hr.shape[-1] // lr.shape[-1], lpips=lpips)), sr[0].cpu()


def _lpips(config: RunConfig, run: RunDir, device: torch.device) -> LPIPS | None:
    try:
        return LPIPS(config.lpips).to(device)
    except EsrganError as error:
        if config.lpips or not isinstance(config, TrainConfig):
            if config.lpips:
                raise
            return None
        run.note(0, f"LPIPS is left out and the best model chosen by PSNR-Y: {error}")
        return None


def _save_samples(pairs: list[Pair], pictures: list[Tensor], path: Path, scale: int) -> None:
    """A row per picture: bicubic, SR and HR of its centre."""
    rows = []
    for pair, sr in list(zip(pairs, pictures, strict=True))[:SAMPLES]:
        bicubic = resize(pair.lr, scale).clamp(0, 1)
        side = min(SAMPLE_SIDE, *pair.hr.shape[1:])
        top, left = ((length - side) // 2 for length in pair.hr.shape[1:])
        crops = [image[:, top : top + side, left : left + side] for image in (bicubic, sr, pair.hr.clamp(0, 1))]
        row = torch.ones(3, SAMPLE_SIDE, 3 * SAMPLE_SIDE)
        for i, crop in enumerate(crops):
            row[:, :side, i * SAMPLE_SIDE : i * SAMPLE_SIDE + side] = crop
        rows.append(row)
    write_rgb(torch.cat(rows, dim=1), path)


def _say_what_is_used(config: RunConfig, run: RunDir, store: PhotoStore, dtype: torch.dtype) -> None:
    print(
        f"{len(store)} training pictures, {len(store.skipped)} left out; {str(dtype).removeprefix('torch.')} arithmetic"
    )
    for line in store.skipped[:10]:
        print(f"  left out: {line}")
    if len(store.skipped) > 10:
        print(f"  ... and {len(store.skipped) - 10} more, listed in {store.folder / 'index.json'}")
    print(f"run folder: {run.path}; {config.steps} steps of {config.batch * config.accumulate} patches")


def _provenance(config: RunConfig, pictures: int, step: int) -> dict[str, Any]:
    """What a model file of this run says of where it comes from; names of files, never whole paths."""
    recipe = {
        name: [Path(v).name for v in value]
        if name in ("images", "val")
        else Path(value).name
        if name == "init"
        else value
        for name, value in plain(config).items()
        if name not in ("run_dir", "cache", "device", "lpips", "vgg", "resume")
    }
    about: dict[str, Any] = {
        "stage": "gan" if isinstance(config, TrainConfig) else "psnr",
        "step": step,
        "data": {"pictures": pictures, "folders": recipe.pop("images")},
        "recipe": recipe,
        "software": {"esrgan": __version__, "torch": torch.__version__},
    }
    init = getattr(config, "init", None)
    return about | ({"init": read_header(init).provenance} if init else {})
