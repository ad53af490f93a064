"""Options that several verbs share."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from cyclopts import App, Group, Parameter
from cyclopts.argument import ArgumentCollection
from cyclopts.validators import Number

from esrgan.errors import UsageError

Overwrite = Annotated[bool, Parameter(name="--overwrite", negative=())]
Positive = Parameter(validator=Number(gt=0))


def whole_numbers(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse fractions where whole numbers are wanted; cyclopts would round them.

    Raises:
        UsageError: One was given, on the command line or in a file of options.
    """
    for argument in arguments:
        kinds = (argument.hint, *get_args(argument.hint))
        for token in argument.tokens if int in kinds and float not in kinds else ():
            with suppress(ValueError):  # no number at all: cyclopts says so
                if "." in token.value and not float(token.value).is_integer():
                    raise UsageError(f"{argument.name} is {token.value}; it must be a whole number")


SPEED = Group("Speed and memory", sort_key=4)


@Parameter(name="*", group=SPEED)
@dataclass(frozen=True, kw_only=True)
class Running:
    """How the network runs."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps, or vulkan: ncnn on any GPU that has a driver for it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network; auto takes the fastest that is safe on the device."""
    engine: Literal["auto", "torch", "winograd", "ncnn", "openvino"] = "auto"
    """What runs the network; auto: the fastest that is installed."""
    tile: Annotated[int | None, Positive] = None
    """Side of the largest square the network gets at once, in LR pixels; smaller needs less memory."""


@Parameter(name="*", group=SPEED)
@dataclass(frozen=True, kw_only=True)
class Upscaling(Running):
    """How the network runs on pictures of any size."""

    overlap: Annotated[int | None, Parameter(validator=Number(gte=0))] = None
    """Pixels read around every tile, so that no seam shows; 16, or 32 for deep networks."""
    compiled: Annotated[bool, Parameter(name="--compile", negative=())] = False
    """Let torch compile the network at the start, for up to minutes; on CUDA long jobs come to that by themselves."""


@Parameter(name="*", group=Group("Size", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class Size:
    """How large results are."""

    scale: Annotated[float | None, Positive] = None
    """Times the size, such as 4, 2 or 1.5; where the network's own scale differs, bicubic does the rest.
    [the network's own]"""
    width: Annotated[int | None, Positive] = None
    """Width of the result in pixels; the height follows if it is not given."""
    height: Annotated[int | None, Positive] = None
    """Height of the result in pixels; the width follows if it is not given."""
    megapixels: Annotated[float | None, Positive] = None
    """Size of the result in millions of pixels."""
    transparency: Literal["network", "bicubic"] = "network"
    """How transparency is enlarged: by the network, as a grey picture, or bicubic."""
