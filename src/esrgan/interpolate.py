"""Network interpolation: weights between those of a PSNR model and a GAN model (section 3.4 of the paper)."""

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from esrgan.errors import EsrganError, UsageError
from esrgan.files import require_other
from esrgan.generator import Generator
from esrgan.model_file import build, load_model, provenance_of, read_model, save_model

KIN = 0.3
"""Cosine of the dense blocks' weights below which networks hardly have a common origin. Of the shipped pairs full_x4
has .65, the others .83; networks that began apart .00, and one with the feature maps of another in other places .06."""


def interpolate(a: Generator, b: Generator, alpha: float) -> Generator:
    """The network with weights (1 - alpha) * a + alpha * b: equation 5 of the paper with a = PSNR, b = GAN.

    Only networks of one family blend: ``b`` should have been trained from ``a``, or both from a third.

    Args:
        a: The network at alpha = 0.
        b: The network at alpha = 1.
        alpha: Share of ``b``, from 0 to 1.

    Raises:
        UsageError: Another alpha.
        EsrganError: Networks of different shape; the difference is named.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}; it must be from 0 to 1, the share of the second model")
    return blend((a, b), (1 - alpha, alpha))


def blend(models: Sequence[Generator], weights: Sequence[float]) -> Generator:
    """The network whose weights are the weighted mean of those of ``models``, on the device of the first.

    Args:
        models: One or more networks of the same shape.
        weights: How much each counts; 0 or more, of any sum.

    Raises:
        UsageError: Weights that give no mean.
        EsrganError: Networks of different shape.
    """
    if strange := [model for model in models if not isinstance(model, Generator)]:
        raise UsageError(f"{strange[0]!r} is no Generator, which esrgan.load_model gives")
    total = sum(weights)
    if len(models) != len(weights) or not (0 < total < math.inf) or min(weights) < 0:
        raise UsageError(f"{len(models)} models need as many weights, 0 or more and not all 0; got {list(weights)}")
    for other in models[1:]:
        _require_same_shape(models[0], other)
    result = copy.deepcopy(models[0]).eval()
    states = [model.state_dict() for model in models]
    result.load_state_dict(
        {
            name: sum(weight / total * state[name].to(tensor) for weight, state in zip(weights, states, strict=True))
            for name, tensor in result.state_dict().items()
        }
    )
    return result


def strangers(models: Sequence[Generator]) -> str | None:
    """What to say of networks whose blend is likely to be broken: they were not trained from one another.

    The directions of their dense blocks' weights tell: see ``KIN``.
    """
    first, *others = [_dense_weights(net) for net in models]
    kin = [float(F.cosine_similarity(first, other, dim=0)) for other in others]
    if min(kin, default=1.0) >= KIN:
        return None
    return (
        f"model {2 + kin.index(min(kin))} seems not to be trained from model 1, nor both from a third (cosine of their"
        f" weights {min(kin):.2f}): such blends are worse than either; look at the pictures"
    )


def _dense_weights(net: Generator) -> Tensor:
    layers = (tensor for name, tensor in net.state_dict().items() if re.search(r"rdb\d\.conv[1-4]\.weight", name))
    return torch.cat([tensor.flatten().float() for tensor in layers])


def load_blend(psnr: Path, gan: Path, alpha: float) -> tuple[Generator, str | None]:
    """The network between two files' (see ``interpolate``), and a warning, if there is reason."""
    pair = load_model(psnr), load_model(gan)
    return interpolate(*pair, alpha), strangers(pair)


def blend_files(paths: Sequence[Path], weights: Sequence[float], out: Path) -> str | None:
    """Write the model file ``out`` that is the ``blend`` of those at ``paths``; gives a warning, if there is reason.

    Raises:
        UsageError: ``out`` is one of ``paths``.
        EsrganError: As ``blend``; or a file cannot be read or written.
    """
    require_other(out, *paths)
    models = [read_model(path) for path in paths]
    networks = [build(model, path) for model, path in zip(models, paths, strict=True)]
    network = blend(networks, weights)
    sources = [provenance_of(model, path) for model, path in zip(models, paths, strict=True)]
    save_model(network, out, provenance=blend_provenance([path.stem for path in paths], sources, weights))
    return strangers(networks)


def blend_provenance(
    names: Sequence[str], provenances: Sequence[dict[str, Any]], weights: Sequence[float]
) -> dict[str, Any]:
    """What the file of a blend says of itself: its sources, their shares, data and licences.

    The licence is an SPDX expression of all of them, and is left out where one of them does not say its own.
    """
    shares = [weight / sum(weights) for weight in weights]
    rows = zip(names, shares, provenances, strict=True)
    about: dict[str, Any] = {
        "stage": "interpolated",
        **({"alpha": shares[1]} if len(shares) == 2 else {}),
        "models": [{"name": name, "share": share, "provenance": source} for name, share, source in rows],
    }
    counted = [source for share, source in zip(shares, provenances, strict=True) if share]
    licences = list(dict.fromkeys(str(source.get("licence")) for source in counted))
    if "None" in licences:
        return about
    several = len(licences) > 1
    return about | {"licence": " AND ".join(f"({one})" if several and " OR " in one else one for one in licences)}


def _require_same_shape(a: Generator, b: Generator) -> None:
    differences = [
        f"{field.name} is {getattr(a.config, field.name)} in one and {getattr(b.config, field.name)} in the other"
        for field in fields(a.config)
        if getattr(a.config, field.name) != getattr(b.config, field.name)
    ]
    if differences:
        raise EsrganError(f"these networks cannot be blended: {', '.join(differences)}")
