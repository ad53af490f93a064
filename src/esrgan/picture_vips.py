"""libvips as this package uses it; ``pyvips`` is imported from here alone, so that it is always set up."""

import os

os.environ.setdefault("VIPS_WARNING", "0")  # its warnings are not for users; read when libvips starts

import pyvips

pyvips.cache_set_max(0)  # every picture is read once
pyvips.concurrency_set(min(4, os.cpu_count() or 1))  # more only takes memory and the network's cores
pyvips.block_untrusted_set(True)

# pyvips hands libvips' warnings to Python. Python may then free other pictures, whose warnings come within the first
# one's, and GLib ends the program for that. No public name undoes it.
getattr(pyvips, "_remove_log_handler", lambda: None)()


def grey_or_rgb(image: pyvips.Image) -> pyvips.Image:
    """``image``, of 8 or 16 bits without sign, known as what its bands are: grey or RGB, with alpha or not."""
    deep = image.format == "ushort"
    if image.bands > 2:
        return image.copy(interpretation="rgb16" if deep else "srgb")
    return image.copy(interpretation="grey16" if deep else "b-w")


__all__ = ["grey_or_rgb", "pyvips"]
