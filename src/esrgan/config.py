"""What a run is made of: frozen values, read from a TOML file and the command line."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from esrgan.errors import EsrganError


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise EsrganError(f"{name} is {value}; it must be {wanted}")


FACTORS: dict[int, tuple[int, ...]] = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2), 16: (2, 2, 2, 2)}
"""The enlargements, one after the other, that make up each scale."""

SMALLEST_GAN_PATCH = 32
"""HR pixels: the window of the spectrum is 32, and conv5_4 needs 16 of what ``losses.shifted`` leaves."""

Variant = Literal["classic", "subpixel"]
Start = Literal["identity", "paper"]
Stage = Literal["psnr", "gan"]


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The shape of a generator; with the weights, all that is needed to rebuild it.

    Raises:
        EsrganError: A shape that there is not.
    """

    variant: Variant = "classic"
    """classic: the paper's, nearest enlargement and 3x3 convolutions. subpixel: 9x9 ends, PixelShuffle, tanh."""
    scale: int = 4
    """How many times larger the output is: 1, 2, 3, 4, 8 or 16."""
    channels: int = 64
    """Feature maps of the trunk (nf in the paper's code)."""
    growth: int = 32
    """Feature maps that each convolution of a dense block adds (gc)."""
    blocks: int = 23
    """Residual-in-residual dense blocks (nb)."""
    unshuffle: int = 1
    """Side of the pixel blocks that become channels at the start, to spare work (Real-ESRGAN: 2 at x2, 4 at x1)."""
    plus: bool = False
    """ESRGAN+'s dense blocks, which add a residual path to every second layer."""

    @property
    def factors(self) -> tuple[int, ...]:
        """The enlargements inside the network, one after the other."""
        return FACTORS[self.scale * self.unshuffle]

    def __post_init__(self) -> None:
        _require(self.variant in ("classic", "subpixel"), "generator.variant", self.variant, "classic or subpixel")
        for name in ("scale", "channels", "growth", "blocks", "unshuffle"):
            value = getattr(self, name)
            _require(type(value) is int and value >= 1, f"generator.{name}", value, "a whole number, at least 1")
        _require(self.scale in FACTORS, "generator.scale", self.scale, f"one of {', '.join(map(str, FACTORS))}")
        _require(isinstance(self.plus, bool), "generator.plus", self.plus, "true or false")
        wanted = f"such that {self.scale} times it is one of {', '.join(map(str, FACTORS))}"
        _require(self.scale * self.unshuffle in FACTORS, "generator.unshuffle", self.unshuffle, wanted)
        if self.variant == "subpixel":
            _require(self.unshuffle == 1, "generator.unshuffle", self.unshuffle, "1 in the sub-pixel network")
            _require(not self.plus, "generator.plus", self.plus, "false in the sub-pixel network")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights move: the paper's Adam, and step decay where there are milestones."""

    algorithm: Literal["adam", "muon"] = "adam"
    """muon: Muon on the generator body's convolutions, Adam on all else."""
    learning_rate: float = 2e-4
    """At its highest."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's two averages."""
    warmup: int = 0
    """Steps over which the learning rate rises from nothing."""
    milestones: tuple[int, ...] = ()
    """Steps after which the learning rate halves."""
    decay: float = 0.0
    """Share of the steps, at the end, over which the learning rate falls linearly to nothing."""
    clip: float | None = None
    """Largest gradient norm; none = no clipping."""

    def __post_init__(self) -> None:
        _require(self.algorithm in ("adam", "muon"), "optim.algorithm", self.algorithm, "adam or muon")
        _require(0 < self.learning_rate < math.inf, "optim.learning_rate", self.learning_rate, "a number above 0")
        _require(all(0 <= beta < 1 for beta in self.betas), "optim.betas", self.betas, "each from 0 to below 1")
        _require(min(self.milestones, default=0) >= 0, "optim.milestones", self.milestones, "0 or more steps each")
        _require(0 <= self.decay <= 1, "optim.decay", self.decay, "a share between 0 and 1")
        _require(self.warmup >= 0, "optim.warmup", self.warmup, "0 or more steps")
        _require(self.clip is None or 0 < self.clip < math.inf, "optim.clip", self.clip, "a number above 0, or none")


@dataclass(frozen=True, kw_only=True)
class PretrainOptim(OptimConfig):
    """The paper's stage 1."""

    milestones: tuple[int, ...] = (200_000, 400_000, 600_000, 800_000)
    """Steps after which the learning rate halves."""


@dataclass(frozen=True, kw_only=True)
class TrainOptim(OptimConfig):
    """The paper's stage 2."""

    learning_rate: float = 1e-4
    """At its highest."""
    milestones: tuple[int, ...] = (50_000, 100_000, 200_000, 300_000)
    """Steps after which the learning rate halves."""


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each term of the generator's loss counts in GAN training; the defaults are the paper's."""

    pixel: float = 1e-2
    """L1 between pixels (eta)."""
    perceptual: float = 1.0
    """L1 between VGG19 features before activation."""
    gan: float = 5e-3
    """Relativistic average GAN loss (lambda)."""
    colour: float = 0.0
    """L1 between mean colours of cells of 4 x 4 LR pixels and between colour differences: no casts, no colour noise."""
    grid: float = 0.0
    """Penalty on detail that repeats with the LR pixels; above 0, VGG and discriminator also see shifted crops."""
    spectrum: float = 0.0
    """L1 between log power spectra: as much detail of every fineness and direction as in real pictures, no hatching."""
    layers: dict[str, float] = field(default_factory=lambda: {"conv5_4": 1.0})
    """VGG19 layers of the perceptual term and their weights, each as --weights.layers.conv3_4 1.0."""
    normalise: bool = False
    """Divide each layer's distance by the mean magnitude of the real picture's features."""

    def __post_init__(self) -> None:
        for name in ("pixel", "perceptual", "gan", "colour", "grid", "spectrum"):
            _require(0 <= getattr(self, name) < math.inf, f"weights.{name}", getattr(self, name), "0 or more")
        for layer, weight in self.layers.items():
            _require(0 <= weight < math.inf, f"weights.layers.{layer}", weight, "0 or more")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The discriminator of GAN training."""

    channels: int = 64
    """Feature maps of its first layer; they double three times."""
    batch_norm: bool = False
    """Batch norm after the convolutions; at small batches it makes the discriminator win outright."""
    learning_rate: float | None = None
    """Its own learning rate at its highest; none = the generator's."""

    def __post_init__(self) -> None:
        _require(self.channels >= 1, "discriminator.channels", self.channels, "at least 1")
        rate = self.learning_rate
        _require(rate is None or 0 < rate < math.inf, "discriminator.learning_rate", rate, "a number above 0")


NESTED: dict[str, type] = {
    "generator": GeneratorConfig,
    "optim": OptimConfig,
    "weights": LossWeights,
    "discriminator": DiscriminatorConfig,
}
"""Options of a run that are tables of options."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What both stages share."""

    images: tuple[Path, ...]
    """Training pictures: folders (searched recursively), files, or .txt lists of paths."""
    val: tuple[Path, ...] = ()
    """Validation pictures, HR, or a benchmark folder with HR and LR; left out: no validation."""
    run_dir: Path = Path("runs/run")
    """Where the run lives. The same command again resumes it."""
    steps: int = 1_000_000
    """Optimizer steps in all."""
    batch: int = 16
    """Patches per forward pass."""
    accumulate: int = 1
    """Forward passes per step; the effective batch is batch x accumulate."""
    patch: int = 128
    """Side of the HR training crop, in pixels."""
    seed: int = 0
    """Fixes the initial weights and every batch."""
    subset: float = 1.0
    """Share of the training pictures to use, for quick trials."""
    jpeg: tuple[int, ...] = ()
    """Lowest and highest quality (1 to 100) of the JPEG files that LR pictures come from; left out: no JPEG."""
    ema: float = 0.999
    """Decay of the running average of the weights, which is what is validated and saved; 0 = none."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward and backward pass; auto = bf16 where the hardware truly has it."""
    engine: Literal["auto", "torch"] = "auto"
    """What computes; auto: our own convolutions ("winograd" in the log) on CPUs with AVX2, in fp32, else torch."""
    cache: Path | None = None
    """Folder of the decoded training pictures; left out: the user's cache folder."""
    log_every: int = 100
    """Steps between lines of the log."""
    validate_every: int = 5_000
    """Steps between validations."""
    save_every: int = 1_000
    """Steps between saved states."""
    resume: Literal["last", "best"] = "last"
    """Which saved state a run goes on from."""
    lpips: Path | None = None
    """LPIPS-Alex weights for validation; left out: the torch cache, else fetched, else no LPIPS."""
    tensorboard: bool = False
    """Write the same numbers and sample pictures for TensorBoard too (in the run folder)."""

    def __post_init__(self) -> None:
        for name in ("images", "val"):
            value = getattr(self, name)
            paths = [value] if isinstance(value, str | Path) else value
            object.__setattr__(self, name, tuple(Path(path) for path in paths))
        for name in ("run_dir", "cache", "lpips", "init", "vgg"):
            if isinstance(value := getattr(self, name, None), str):
                object.__setattr__(self, name, Path(value))
        for name in ("steps", "batch", "accumulate", "patch", "log_every", "validate_every", "save_every"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value >= 1, name, value, "a whole number, at least 1")
        for name, kind in NESTED.items():
            if default := getattr(type(self), name, None):
                value = getattr(self, name)
                _require(isinstance(value, kind), name, value, f"of the class esrgan.{type(default).__name__}")
        for name in ("run_dir", "cache", "lpips", "init", "vgg"):
            value = getattr(self, name, None)
            _require(value is None or isinstance(value, Path), name, value, "a path")
        fine = not self.jpeg or (len(self.jpeg) == 2 and 1 <= self.jpeg[0] <= self.jpeg[1] <= 100)
        _require(fine, "jpeg", self.jpeg, "two qualities from 1 to 100, the lower one first")
        _require(0 < self.subset <= 1, "subset", self.subset, "a share above 0, at most 1")
        _require(0 <= self.ema < 1, "ema", self.ema, "at least 0 and below 1")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
        known = "auto, fp32 or bf16 (training in fp16 overflows and costs PSNR)"
        _require(self.precision in ("auto", "fp32", "bf16"), "precision", self.precision, known)
        _require(self.engine in ("auto", "torch"), "engine", self.engine, "auto or torch")
        _require(self.resume in ("last", "best"), "resume", self.resume, "last or best")
        pictures = {path.resolve() for path in (*self.images, *self.val)}
        _require(self.run_dir.resolve() not in pictures, "run_dir", self.run_dir, "another folder than the pictures'")
        _require(len(self.images) > 0, "images", "empty", "one folder of pictures or more (--images FOLDER)")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """Stage 1: a PSNR-oriented generator, trained with L1.

    Raises:
        EsrganError: A value that cannot be, or values that do not go together.
    """

    stage: ClassVar[Stage] = "psnr"
    generator: GeneratorConfig = GeneratorConfig()
    """The network."""
    start: Start = "identity"
    """Weights at step 0: identity = a linear enlargement (classic only), paper = small noise."""
    init: Path | None = None
    """Model to begin from, by file or name: no wider than this one, of any depth and scale. Left out: from scratch.

    Of the other variant only the trunk is taken.
    """
    optim: PretrainOptim = PretrainOptim()
    """How weights move."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.start in ("identity", "paper"), "start", self.start, "identity or paper")
        require_whole_patches(self.patch, self.generator.scale)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Stage 2: GAN training from a stage-1 model. The network's shape comes from that file.

    Raises:
        EsrganError: As ``PretrainConfig``.
    """

    stage: ClassVar[Stage] = "gan"
    init: Path
    """Model of stage 1: a file, or a name that `esrgan models` lists."""
    steps: int = 400_000
    """Optimizer steps in all."""
    weights: LossWeights = LossWeights()
    """The generator's loss."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    """Its opponent."""
    optim: TrainOptim = TrainOptim()
    """How the weights of both networks move."""
    psnr_floor: float = 0.0
    """The best model is the one of lowest LPIPS among those whose PSNR-Y reaches this."""
    vgg: Path | None = None
    """VGG19 weights; left out: the torch cache, else fetched."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.patch >= SMALLEST_GAN_PATCH, "patch", self.patch, f"at least {SMALLEST_GAN_PATCH} in stage 2")


Config = PretrainConfig | TrainConfig


def require_whole_patches(patch: int, scale: int) -> None:
    """Raise where a patch of HR pixels is no whole number of LR pixels."""
    _require(scale >= 1 and patch % scale == 0, "patch", patch, f"a multiple of the scale, {scale}")
