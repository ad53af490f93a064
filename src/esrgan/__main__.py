"""The `esrgan` command, and ``python -m esrgan``, which is what torchrun starts."""

import os
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
    code = main()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # Started by torchrun. Taking down torch's threads for several processes has, rarely, aborted a program at its
        # very end, with all done and saved; torchrun would call that a failure.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
