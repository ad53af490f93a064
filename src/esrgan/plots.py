"""The curves of a run, as a picture."""

from pathlib import Path
from typing import Any

from esrgan.files import replacing

PANELS = {"PSNR-Y (dB)": ("psnr_y",), "SSIM-Y": ("ssim_y",), "LPIPS": ("lpips",)}


def draw_curves(rows: list[dict[str, Any]], path: Path, *, title: str) -> None:
    """Draw losses, learning rate and validation scores of log ``rows`` over the steps to ``path`` (PNG)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second, and only here
    from matplotlib.figure import Figure  # noqa: PLC0415

    series = _series(rows)
    figure = Figure(figsize=(14, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    losses = [name for name in series if name.startswith("loss ")]
    groups = {"losses": losses, "learning rate": ["learning rate"], **{k: list(v) for k, v in PANELS.items()}}
    shown = {name: [s for s in members if s in series] for name, members in groups.items()}
    shown = {name: members for name, members in shown.items() if members}
    for axes, (name, members) in zip(figure.subplots(2, 3).flat, shown.items(), strict=False):
        for member in members:
            axes.plot(*series[member], label=member.removeprefix("loss "), linewidth=1.2)
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
        if name == "losses":
            axes.set_yscale("log")
            axes.legend()
    for axes in figure.axes[len(shown) :]:
        axes.remove()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)


def _series(rows: list[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
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
