"""The `esrgan` command, and ``python -m esrgan``, which is what torchrun starts."""

import sys


def main() -> int:
    """Run the command line; gives the exit code. Ctrl-C counts from here on, while the rest is imported too."""
    try:
        from esrgan.cli import main as run  # noqa: PLC0415

        return run()
    except KeyboardInterrupt:
        print("esrgan: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
