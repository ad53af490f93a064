import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips
import torch
from conftest import camera_exif, photo, red_disc, waves
from PIL import Image

from esrgan.errors import EsrganError
from esrgan.images import find_images, read_bytes8, read_rgb, write_rgb
from esrgan.picture_reader import open_picture


def test_what_is_written_is_read_again(tmp_path):
    image = torch.from_numpy(waves(20, 30)).permute(2, 0, 1).float() / 255
    for suffix in ("png", "tif", "PNG"):
        write_rgb(image, tmp_path / "sub" / f"a.{suffix}")
        assert torch.equal(read_rgb(tmp_path / "sub" / f"a.{suffix}"), image)
    assert torch.equal(read_bytes8(tmp_path / "sub" / "a.png"), (image.permute(1, 2, 0) * 255).round().byte())
    write_rgb(image, tmp_path / "a.jpg")
    assert (read_rgb(tmp_path / "a.jpg") - image).abs().mean() < 0.01


def test_values_are_rounded_not_truncated(tmp_path):
    write_rgb(torch.full((3, 2, 2), 100.6 / 255), tmp_path / "a.png")
    assert read_bytes8(tmp_path / "a.png").unique().tolist() == [101]


def test_no_picture_is_written_of_values_that_are_not_finite_or_in_an_unknown_format(tmp_path):
    with pytest.raises(EsrganError, match="not finite"):
        write_rgb(torch.full((3, 2, 2), torch.nan), tmp_path / "a.png")
    with pytest.raises(EsrganError, match=r"cannot write .*a\.xyz"):
        write_rgb(torch.zeros(3, 2, 2), tmp_path / "a.xyz")
    assert not any(tmp_path.iterdir())


def test_every_kind_of_file_is_read_as_a_viewer_shows_it(kinds):
    for path in kinds:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB") if image.mode not in ("RGBA", "I;16") else image)
        rgb = read_rgb(path)
        assert rgb.dtype == torch.float32
        assert rgb.shape[0] == 3
        if path.name in ("rgb.jpg", "cmyk.jpg") or "disc" in path.name:
            continue  # their own tests
        if expected.ndim == 2:
            expected = np.repeat(expected[..., None] / 257, 3, 2)
        assert np.abs(rgb.permute(1, 2, 0).numpy() * 255 - expected).mean() < 2.5, path.name


def test_orientation_is_applied(tmp_path):
    for orientation in range(1, 9):
        for suffix in ("jpg", "png", "webp", "tif"):
            path = tmp_path / f"a.{suffix}"
            photo().save(path, exif=camera_exif(orientation), **({"quality": 95} if suffix in ("jpg", "webp") else {}))
            expected = np.asarray(_upright(photo(), orientation))
            assert np.abs(read_bytes8(path).numpy().astype(int) - expected).mean() < 3, (orientation, suffix)


def _upright(image, orientation):
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    return image if turn is None else image.transpose(Image.Transpose(turn))


def test_16_bits_are_used_in_full(tmp_path):
    Image.fromarray(np.array([[0, 1, 256, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert torch.allclose(read_rgb(tmp_path / "a.png")[0, 0] * 65535, torch.tensor([0.0, 1, 256, 65535]))


def test_transparency_is_over_white(tmp_path):
    red_disc().save(tmp_path / "a.png")
    image = read_bytes8(tmp_path / "a.png")
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[24, 32].tolist() == [255, 0, 0]


def test_cmyk_becomes_srgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "white.jpg")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    assert read_bytes8(tmp_path / "white.jpg").min() > 250
    red = read_bytes8(tmp_path / "red.jpg")[0, 0].tolist()
    assert red[0] > 200
    assert max(red[1:]) < 80


@pytest.mark.parametrize(("content", "words"), [
    (b"", "empty file"), (b"hello", "not a picture"), (b"\x89PNG\r\n\x1a\n", "damaged"), (b"GIF89a", "damaged"),
    (b"\xff\xd8\xff\xe0", "damaged"), (b"RIFF\0\0\0\0WEBP", "damaged"), (b"II*\0", "damaged"),
])  # fmt: skip
def test_what_is_no_picture_is_named(tmp_path, content, words):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(EsrganError, match=words) as error:
        read_rgb(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # socket paths are short
        server.bind("socket.png")
        for name in ("fifo.png", "folder.png", "socket.png", "loop.png", "nothing.png"):
            with pytest.raises(EsrganError, match=name):
                read_rgb(tmp_path / name)


FREED_IN_A_WARNING = """
import gc, sys
from esrgan.picture_vips import pyvips
def cut_off():
    image = pyvips.Image.jpegload(sys.argv[1], access="sequential")
    try: image.write_to_memory()
    except pyvips.Error: pass
    return image  # its end warns
class Knot: pass
gc.disable()
for _ in range(20):
    knot = Knot()
    knot.itself, knot.image = knot, cut_off()
last = cut_off()
gc.enable()
gc.set_threshold(1)
del knot, last
"""


def test_pictures_that_are_freed_while_libvips_warns_of_another_end_nothing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-200])
    done = subprocess.run(
        [sys.executable, "-c", FREED_IN_A_WARNING, tmp_path / "cut.jpg"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_truncated_pictures_are_refused(kinds, tmp_path):
    for path in kinds:
        data = path.read_bytes()
        for share in (0.3, 0.6, 0.9):
            short = tmp_path / path.name
            short.write_bytes(data[: int(len(data) * share)])
            if path.name not in ("dot.png", "thin.png", "pages.tif"):
                with pytest.raises(EsrganError):
                    read_rgb(short)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    with pytest.raises(EsrganError, match="decompression bomb"):
        read_rgb(tmp_path / "bomb.png")
    with pytest.raises(EsrganError, match="limit of 100"):
        open_picture(tmp_path / "bomb.png", limit_pixels=100)


def test_odd_names_are_no_trouble(tmp_path):
    for name in ("a[page=1].png", "ünïcödé 図.png", "new\nline.png", "-dash.png", os.fsdecode(b"\xff\xfe.png")):
        write_rgb(torch.zeros(3, 4, 4), tmp_path / name)
        assert read_rgb(tmp_path / name).shape == (3, 4, 4)
    assert len(find_images([tmp_path])) == 5
    (tmp_path / "new\nline2.png").write_bytes(b"x")
    with pytest.raises(EsrganError) as error:
        read_rgb(tmp_path / "new\nline2.png")
    assert "\n" not in str(error.value)


def test_find_images_takes_files_folders_and_lists(tmp_path):
    for name in ("b.png", "sub/a.JPG", "sub/deep/c.webp", "sub/.hidden.png", ".cache/d.png", "notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub" / "again").symlink_to(tmp_path)
    (tmp_path / "list.txt").write_text("# two of them\nb.png\n\nsub/deep\n")
    assert find_images([tmp_path]) == [tmp_path / n for n in ("b.png", "sub/a.JPG", "sub/deep/c.webp")]
    assert find_images([tmp_path / "list.txt"]) == [tmp_path / n for n in ("b.png", "sub/deep/c.webp")]
    assert find_images([tmp_path / "b.png", tmp_path / "b.png"]) == [tmp_path / "b.png"]
    assert find_images([tmp_path / "sub" / "deep", tmp_path / "b.png"])[-1] == tmp_path / "b.png"  # in that order
    assert find_images([tmp_path / "sub" / "deep", tmp_path / "sub" / "again" / "sub" / "deep" / "c.webp"]) == [
        tmp_path / "sub" / "deep" / "c.webp"
    ]


def test_find_images_leaves_out_the_run_folders_of_trainings(tmp_path):
    for path in ("photos/a.png", "photos/runs/x/samples/step.png", "photos/runs/x/curves.png"):
        write_rgb(torch.rand(3, 8, 8), tmp_path / path)
    for name in ("photos/runs/x/config.toml", "photos/runs/x/lock.txt", "photos/log.jsonl", "photos/config.toml"):
        (tmp_path / name).touch()
    assert find_images([tmp_path]) == [tmp_path / "photos/a.png"]
    assert find_images([tmp_path / "photos/runs/x/samples"]) == [tmp_path / "photos/runs/x/samples/step.png"]


@pytest.mark.parametrize("name", ["nothing", "empty", "list.txt"])
def test_find_images_says_what_is_missing(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("gone.png\n")
    with pytest.raises(EsrganError, match=r"gone\.png" if name == "list.txt" else name):
        find_images([Path(tmp_path, name)])


def test_16_bits_become_the_nearest_of_8_for_training_and_their_transparency_is_over_white(tmp_path):
    levels = np.array([0, 100, 33_000, 50_000, 65_535], np.uint16)
    Image.fromarray(levels[None]).save(tmp_path / "a.png")
    assert read_bytes8(tmp_path / "a.png")[0, :, 0].tolist() == [round(level / 257) for level in levels.tolist()]
    clear = np.zeros((2, 2, 4), np.uint16)
    clear[0] = 33_000, 0, 0, 65_535
    pyvips.Image.new_from_array(clear, interpretation="rgb16").write_to_file(str(tmp_path / "b.png"))
    assert read_bytes8(tmp_path / "b.png")[:, 0].tolist() == [[128, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_the_limit_of_pixels_is_for_all_frames_together(kind):
    file = io.BytesIO()
    photo().save(file, kind, save_all=True, append_images=[photo().rotate(angle) for angle in (90, 180)])
    assert open_picture(file.getvalue(), limit_pixels=3 * 64 * 48).frames == 3
    with pytest.raises(EsrganError, match="decompression bomb"):
        open_picture(file.getvalue(), limit_pixels=3 * 64 * 48 - 1)


def test_cmyk_of_16_bits_becomes_srgb_of_16_bits():
    ink = np.full((8, 8, 4), 0, np.uint16)
    ink[..., 0] = np.arange(64).reshape(8, 8) * 40  # less than 10 steps of 8 bits
    picture = open_picture(pyvips.Image.new_from_array(ink, interpretation="cmyk").tiffsave_buffer())
    assert (picture.bits, picture.image.bands) == (16, 3)
    assert len(np.unique(picture.image.numpy()[..., 0])) > 30


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_a_jpeg_damaged_in_its_middle_is_refused(tmp_path, share):
    photo(200, 150).save(tmp_path / "a.jpg")
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    place = int(share * len(data))
    data[place : place + 20] = bytes(20)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(EsrganError, match="damaged or not readable"):
        read_rgb(tmp_path / "a.jpg")
