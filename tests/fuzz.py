"""Mutated picture files: cut, flipped, lying, misnamed, and things that are no files at all."""

import os
import random
import socket
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".gif", ".bmp", ".avif", ".heic", ".jxl")


def cut(out: bytearray, rng: random.Random) -> None:
    del out[rng.randrange(len(out)) :]


def flip(out: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 3, 20, 200))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)


def scramble_header(out: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        out[rng.randrange(min(64, len(out)))] = rng.randrange(256)


def blank(out: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(out))
    length = len(out[start : start + rng.randrange(1, 2 + len(out) // 4)])
    out[start : start + length] = bytes(length)


def lie(out: bytearray, rng: random.Random) -> None:
    """A size or an offset becomes an extreme one."""
    start = rng.randrange(min(256, len(out)))
    out[start : start + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\1\0\0"))


def insert(out: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(out))
    out[start:start] = rng.randbytes(rng.randrange(1, 100))


def remove(out: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(out))
    del out[start : start + rng.randrange(1, 100)]


def repeat(out: bytearray, rng: random.Random) -> None:
    start, other = rng.randrange(len(out)), rng.randrange(len(out))
    out[start : start + 50] = out[other : other + 50]


def replace(out: bytearray, rng: random.Random) -> None:
    out[:] = rng.choice((b"", b"\0" * 100, rng.randbytes(300), out[:16] + rng.randbytes(300), out * 2))


DAMAGES = (cut, flip, scramble_header, blank, lie, insert, remove, repeat, replace)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One damage, now and then several."""
    out = bytearray(data)
    while out:
        rng.choice(DAMAGES)(out, rng)
        if rng.random() < 0.9:
            break
    return bytes(out)


def make_folder(folder: Path, seeds: list[Path], count: int, seed: int) -> list[socket.socket]:
    """Fill ``folder`` with ``count`` mutants of ``seeds``, and one each of what is no file.

    Returns:
        Open sockets, to be closed.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        origin = rng.choice(seeds)
        suffix = rng.choice(SUFFIXES) if rng.random() < 0.1 else origin.suffix
        (folder / f"{i:05d}-{origin.stem}{suffix}").write_bytes(mutate(origin.read_bytes(), rng))
    (folder / "folder.png").mkdir()
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "round.png").symlink_to("round.png")
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "fifo.jpg")
    server = socket.socket(socket.AF_UNIX)
    before = Path.cwd()
    os.chdir(folder)  # the path of a socket is short
    server.bind("socket.gif")
    os.chdir(before)
    return [server]
