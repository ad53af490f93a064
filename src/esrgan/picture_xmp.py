"""The XMP of a result: its picture's, without what was true of that file alone."""

import re

from esrgan.picture_reader import Picture

MOST_IN_JPEG = 60_000
"""Bytes that libvips writes into one."""
_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:>|\s*=\s*["'])\s*)[2-8]""")
_TOLD = rb"(?:hdrgm:\w+|G?Camera:(?:MotionPhoto|MicroVideo)\w*)"  # of a gain map, of a motion photo's video
_CLAIM = re.compile(rb"""\s%s\s*=\s*(?:"[^"]*"|'[^']*')|<(%s)>[^<]*</\1>""" % (_TOLD, _TOLD))
_APPENDED = re.compile(rb"<(G?Container:Directory)\b")


def xmp_of_result(picture: Picture) -> bytes:
    """What to write of a picture's XMP: nothing of a gain map, a video, or what else was appended to the file.

    Results are upright unless they have several frames.
    """
    xmp = bytes(picture.image.get("xmp-data")) if picture.image.get_typeof("xmp-data") else b""
    xmp = _CLAIM.sub(b"", xmp)
    if appended := _APPENDED.search(xmp):
        _, end, rest = xmp[appended.end() :].partition(b"</" + appended[1] + b">")
        xmp = xmp[: appended.start()] + rest if end else xmp
    return xmp if picture.frames > 1 else _ORIENTATION.sub(rb"\g<1>1", xmp)
