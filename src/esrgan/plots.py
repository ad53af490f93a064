"""The curves of a run, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esrgan.files import replacing
from esrgan.track import bicubic, gains

PANELS = {"PSNR-Y (dB)": "psnr_y", "SSIM-Y": "ssim_y", "LPIPS": "lpips"}


def draw_curves(
    rows: Sequence[dict[str, Any]],
    path: Path,
    *,
    title: str,
    references: Mapping[str, Sequence[dict[str, Any]]] | None = None,
) -> None:
    """Draw losses, learning rate and validation scores of log ``rows`` over the steps to ``path`` (PNG).

    ``references``, logs of other runs by name, are drawn in grey behind the validation scores. They were validated on
    other pictures; where bicubic's scores are known for both, theirs are moved so that bicubic is the same.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second, and only here
    from matplotlib.figure import Figure  # noqa: PLC0415

    series = _series(rows)
    figure = Figure(figsize=(14, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    losses = [name for name in series if name.startswith("loss ")]
    groups = {"losses": losses, "learning rate": ["learning rate"], **{k: [v] for k, v in PANELS.items()}}
    shown = {name: [s for s in members if s in series] for name, members in groups.items()}
    shown = {name: members for name, members in shown.items() if members}
    for axes, (name, members) in zip(figure.subplots(2, 3).flat, shown.items(), strict=False):
        for member in members:
            axes.plot(*series[member], label=member.removeprefix("loss "), linewidth=1.4)
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
        if name == "losses":
            axes.set_yscale("log")
            axes.legend()
        if name in PANELS:
            _draw_others(axes, PANELS[name], rows, references or {})
    for axes in figure.axes[len(shown) :]:
        axes.remove()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)


def _draw_others(
    axes: Any, score: str, rows: Sequence[dict[str, Any]], references: Mapping[str, Sequence[dict[str, Any]]]
) -> None:
    """Bicubic's level and the reference curves, behind the run's own."""
    base = bicubic(rows).get(score)
    limits = axes.get_xlim()
    if base is not None:
        axes.axhline(base, color="0.6", linestyle=":", linewidth=1, label="bicubic")
    for label, others in references.items():
        points = [(row["step"], row["validation"].get(score)) for row in others if "validation" in row]
        if base is not None and score in ("psnr_y", "lpips") and (theirs := gains(others, score)):
            points = [(step, base * gain if score == "lpips" else base + gain) for step, gain in theirs]
        points = [(step, value) for step, value in points if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color="0.7", zorder=1, linewidth=2.5, label=label)
    axes.set_xlim(limits)
    if base is not None or references:
        axes.legend()


def _series(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Name -> (steps, values) of everything in the log that can be drawn."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        values = {f"loss {name}": value for name, value in row.get("losses", {}).items()}
        values |= row.get("validation", {})
        if "learning_rate" in row:
            values["learning rate"] = row["learning_rate"]
        for name, value in values.items():
            if value is not None:
                steps, points = series.setdefault(name, ([], []))
                steps.append(row["step"])
                points.append(value)
    return series
