"""``python -m esrgan``, which is what torchrun starts."""

import sys

from esrgan.cli import main

if __name__ == "__main__":
    sys.exit(main())
