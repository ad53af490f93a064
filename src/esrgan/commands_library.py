"""The verb ``models``: what is at hand."""

from typing import Any

SPEED_CLASSES = ((3e6, "fast"), (12e6, "medium"))  # parameters up to which a network is called so


def list_command() -> None:
    """List the models at hand: shipped ones and those in your model folder."""
    from rich.console import Console  # noqa: PLC0415 - only when asked for
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from esrgan.errors import EsrganError, printable  # noqa: PLC0415
    from esrgan.library import entries, hidden, user_folder  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "scale", "kind", "size", "speed", "PSNR-Y / LPIPS (Set5)", "licence"):
        table.add_column(column, overflow="fold")
    broken = [f"{entry.path}, as another model at hand is called {entry.name}" for entry in hidden()]
    for entry in entries():
        try:
            header = entry.header()
        except EsrganError as error:
            broken.append(str(error))
            continue
        except OSError as error:
            broken.append(f"{entry.path} cannot be read ({error.strerror})")
            continue
        size = entry.size()
        about = header.provenance
        cells = (entry.name, f"x{header.config.scale}", about.get("stage", "-"), f"{size / 1e6:.1f} MB", _speed(size),
                 _scores(about), about.get("licence", "unknown"))  # fmt: skip
        table.add_row(*(Text(printable(str(cell))) for cell in cells))
    console = Console()
    console.print(table)
    folder = f"\nYour model folder: {user_folder()}"
    console.print(folder, style="dim", highlight=False, soft_wrap=True, markup=False)
    for line in broken:
        console.print(f"left out: {printable(line)}", style="yellow", highlight=False, soft_wrap=True, markup=False)


def _speed(size: int) -> str:
    parameters = size / 3  # between fp16's 2 bytes and fp32's 4
    return next((name for most, name in SPEED_CLASSES if parameters < most), "slow")


def _scores(about: dict[str, Any]) -> str:
    """Those on Set5; whoever wrote the header may have written anything there."""
    try:
        row = next(row for row in about["scores"]["datasets"] if row["name"] == "Set5")
        lpips = f" / {row['lpips']:.3f}" if row.get("lpips") is not None else ""
        return f"{row['psnr_y']:.2f} dB{lpips}"
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration):
        return "-"
