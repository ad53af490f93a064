"""Damaged files give one line each, never a traceback, a hang, a crash or an output file.

``pytest tests/test_fuzz.py --fuzz 10000 --fuzz-seed 7`` tries more of them.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import make_folder

from esrgan.picture_reader import RowReader, open_picture

BATCH = 1000


def test_damaged_files_give_one_line_each_and_no_output(pytestconfig, kinds, model_file, tmp_path):
    count, seed = pytestconfig.getoption("--fuzz"), pytestconfig.getoption("--fuzz-seed")
    for start in range(0, count, BATCH):
        try_folder(tmp_path / f"{start}", kinds, model_file, min(BATCH, count - start), seed * 1_000_003 + start)


def try_folder(place: Path, kinds: list[Path], model_file: Path, count: int, seed: int) -> None:
    sockets = make_folder(place / "in", kinds, count, seed)
    done = subprocess.run(
        [sys.executable, "-m", "esrgan", "upscale", place / "in", "--out", place / "out", "--json", place / "r.json",
         "--model", model_file, "--device", "cpu", "--precision", "fp32", "--limit-pixels", "200000"],
        capture_output=True, text=True, timeout=60 + count, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    report = json.loads((place / "r.json").read_text())
    failed = [picture for picture in report["pictures"] if picture["status"] == "failed"]
    assert len(report["pictures"]) == count + 4  # links to nowhere and to itself, FIFO, socket
    for line in done.stderr.splitlines()[:-1]:
        assert line.startswith(("esrgan: ", str(place))), line
    assert done.stderr.count("esrgan: ") == len(failed)
    for picture in report["pictures"]:
        if picture["status"] == "done":
            written = open_picture(Path(picture["output"]), limit_pixels=10**8)
            RowReader(written, picture["output"]).read(0, written.image.height)
    outputs = [path for path in (place / "out").rglob("*") if not path.name.startswith(".esrgan")]
    assert len(outputs) == report["done"]
    for server in sockets:
        server.close()


@pytest.mark.parametrize("what", ["gone.png", "fifo.jpg", "socket.gif", "folder.png", "round.png"])
def test_what_is_no_file_gives_one_line(what, kinds, model_file, tmp_path, capsys):
    from esrgan.cli import main  # noqa: PLC0415

    sockets = make_folder(tmp_path / "in", kinds, 0, 0)
    assert (
        main(["upscale", str(tmp_path / "in" / what), "--out", str(tmp_path / "out"), "--model", str(model_file)]) == 1
    )
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert what in errors[0]
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    for server in sockets:
        server.close()
