import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image

from esrgan.cli import main
from esrgan.doctor import examine, examine_store
from esrgan.flaws import border
from esrgan.images import read_rgb, write_rgb
from esrgan.lr_kernels import looks_like
from esrgan.photo_store import PhotoStore
from esrgan.resize import make_lr, resize


def said(*folders, **options):
    return "\n".join(map(str, examine(folders, **options)))


@pytest.fixture
def healthy(tmp_path):
    return tiny.pictures(tmp_path / "photos", 12, size=(256, 256))


def test_few_broken_small_and_flat_pictures_are_named(healthy):
    (healthy / "broken.jpg").write_bytes(b"\xff\xd8\xffno")
    Image.new("RGB", (40, 40), "red").save(healthy / "tiny.png")
    Image.new("RGB", (200, 200)).save(healthy / "black.png")
    text = said(healthy)
    for word in ("broken.jpg", "tiny.png (40 x 40)", "black.png", "only 13 pictures"):
        assert word in text


def test_a_share_of_black_patches_is_told(tmp_path):
    for i in range(3):
        canvas = np.zeros((512, 512, 3), np.uint8)
        canvas[:128] = np.random.default_rng(i).integers(0, 255, (128, 512, 3))
        (tmp_path / "p").mkdir(exist_ok=True)
        Image.fromarray(canvas).save(tmp_path / "p" / f"{i}.png")
    text = said(tmp_path / "p")
    assert "75% of the patches" in text
    assert "frame" in text


def test_validation_pictures_among_the_training_ones_are_found(healthy, tmp_path):
    image = Image.open(healthy / "0_3.png")
    (tmp_path / "val").mkdir()
    image.resize((200, 200)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "val" / "copy.jpg", quality=80)
    text = said(healthy, val=(tmp_path / "val",))
    assert "copy.jpg = " in text
    assert "0_3.png" in text


def test_twins_and_lr_pictures_among_the_hr_ones_are_found(healthy):
    Image.open(healthy / "0_1.png").save(healthy / "again.jpg", quality=90)
    Image.open(healthy / "0_2.png").resize((64, 64)).save(healthy / "small_of_2.png")
    text = said(healthy, patch=64)
    assert "there twice" in text
    assert "again.jpg" in text
    assert "in two sizes" in text
    assert "small_of_2.png" in text


def shapes(seed, side=256):
    """Discs of every size on one another: sharp edges, and as little at the finest scale as photos have."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = np.full((side, side, 3), 128.0)
    for radius in np.geomspace(side / 3, 2, 300):
        row, column = random.uniform(0, side, 2)
        image[(y - row) ** 2 + (x - column) ** 2 < radius**2] = random.uniform(0, 255, 3)
    return Image.fromarray((image + random.normal(0, 2, image.shape)).clip(0, 255).astype(np.uint8))


def test_enlarged_and_blocky_pictures_are_found(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for factor, kernel in ((1.5, "LANCZOS"), (2, "BICUBIC"), (4, "BICUBIC"), (4, "BILINEAR")):
        small = shapes(1).resize((int(256 / factor), int(256 / factor)), Image.Resampling.BICUBIC)
        small.resize((256, 256), Image.Resampling[kernel]).save(folder / f"{kernel}{factor}.png")
    for quality in (20, 95):
        shapes(2).save(folder / f"q{quality}.jpg", quality=quality)
    with Image.open(folder / "q20.jpg") as image:
        image.crop((3, 5, 250, 250)).save(folder / "cut.png")
    shapes(3).save(folder / "fine.png")
    lines = said(folder, patch=64).splitlines()
    soft = next(line for line in lines if "as if enlarged" in line)
    blocky = next(line for line in lines if "8-pixel blocks" in line)
    assert soft.startswith("problem: 4 pictures")
    assert blocky.startswith("problem: 2 pictures")
    assert "q20.jpg" in blocky
    assert "cut.png" in blocky


def test_cuts_of_training_pictures_among_the_validation_ones_are_found_both_ways(tmp_path):
    for folder in ("photos", "val"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        shapes(i).save(tmp_path / "photos" / f"{i}.png")
    cut = shapes(3).crop((37, 21, 217, 209)).transpose(Image.Transpose.ROTATE_90)
    cut.save(tmp_path / "val" / "cut.jpg", quality=85)
    shapes(7).save(tmp_path / "val" / "other.png")
    shapes(8).save(tmp_path / "val" / "whole.png")
    shapes(8).crop((9, 0, 209, 200)).save(tmp_path / "photos" / "part.png")
    line = next(
        line for line in said(tmp_path / "photos", val=(tmp_path / "val",)).splitlines() if "showing part of" in line
    )
    assert line.startswith("problem: 2 validation pictures")
    assert f"cut.jpg in {tmp_path / 'photos' / '3.png'}" in line
    assert f"whole.png in {tmp_path / 'photos' / 'part.png'}" in line


def test_one_of_a_kind_is_said_in_the_singular(healthy):
    Image.new("RGB", (200, 200)).save(healthy / "black.png")
    assert "problem: 1 picture black or of one colour" in said(healthy)


def detailed(side=96):
    random = torch.Generator().manual_seed(3)
    coarse = resize(torch.rand(3, side // 8, side // 8, generator=random), 8)
    return (coarse + 0.3 * torch.rand(3, side, side, generator=random) - 0.15).clamp(0, 1)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda hr: F.interpolate(hr[None], scale_factor=0.25, mode="bicubic")[0], "OpenCV's cubic"),
        (lambda hr: F.avg_pool2d(hr[None], 4)[0], "mean of each block"),
        (lambda hr: hr[:, ::4, ::4], "nearest"),
        (lambda hr: make_lr(torch.roll(hr, (1, 1), (1, 2)), 4), "down by 1 and right by 1"),
        (lambda hr: make_lr(hr.flip(0), 4), "red and blue"),
        (lambda hr: make_lr(hr.flip(2), 4), "mirrored"),
        (lambda hr: make_lr(hr.flip(1, 2).roll(9, 1) ** 3, 4), "another picture"),
        (lambda hr: make_lr((hr + torch.roll(hr, 1, 2)) / 2, 4), "down by 0 and right by 0.5"),
    ],
)
def test_the_way_an_lr_picture_was_made_is_recognised(make, name):
    hr = detailed()
    assert looks_like(make_lr(hr, 4), hr, 4) is None
    assert name in looks_like(make(hr).clamp(0, 1), hr, 4).words


def test_pairs_that_do_not_fit_are_named(tmp_path):
    for i in range(2):
        write_rgb(detailed(), tmp_path / "set" / "HR" / f"{i}.png")
        write_rgb(make_lr(detailed(), 4), tmp_path / "set" / "LR" / f"{i}.png")
    write_rgb(torch.rand(3, 20, 24), tmp_path / "set" / "LR" / "1.png")
    assert "24 x 20" in said(tmp_path / "set")
    write_rgb(F.avg_pool2d(read_rgb(tmp_path / "set" / "HR" / "0.png")[None], 4)[0], tmp_path / "set" / "LR" / "0.png")
    assert "mean of each block" in said(tmp_path / "set")


def test_the_command_exits_with_1_where_something_is_wrong(healthy, capsys):
    assert main(["data", "check", str(healthy)]) == 1
    assert "problem: only 12 pictures" in capsys.readouterr().out
    assert main(["data", "check", "nowhere"]) == 1


def test_another_kernel_is_seen_in_smooth_pictures_too():
    hr = 0.5 + (detailed() - 0.5) / 3
    way = looks_like(F.avg_pool2d(hr[None], 4)[0], hr, 4)
    assert "mean of each block" in way.words
    assert way.ours > 42


def test_of_a_folder_of_pairs_only_hr_is_looked_at(tmp_path):
    for i in range(2):
        write_rgb(detailed(160).roll(i, 0), tmp_path / "set" / "HR" / f"{i}.png")
        write_rgb(make_lr(read_rgb(tmp_path / "set" / "HR" / f"{i}.png"), 4), tmp_path / "set" / "LR" / f"{i}.png")
    lines = said(tmp_path / "set").splitlines()
    assert "only 2 pictures" in lines[0]
    assert not any("smaller than the patch" in line or "two sizes" in line for line in lines)
    assert lines[-1].startswith("note: a run with --images")


def test_a_frame_has_an_edge_and_a_night_sky_has_none():
    photo = detailed()[0].numpy() * 255
    framed, night = photo.copy(), photo.copy()
    framed[:20] = 0
    night *= np.linspace(-0.4, 1, len(night), dtype=np.float32).clip(0)[:, None]
    assert border(framed) == 20
    assert border(night) == 0


def test_of_very_many_pixels_a_part_is_looked_at_before_a_run_and_all_are_counted(tmp_path, monkeypatch):
    folder = tiny.pictures(tmp_path / "photos", 12)
    store = PhotoStore.of([folder], scale=4, patch=32, cache=tmp_path / "cache")
    text = "\n".join(map(str, examine_store(store, patch=32)))
    assert "only 12 pictures" in text
    assert "was looked at" not in text
    monkeypatch.setattr("esrgan.doctor.MOST", store.bytes // 3)
    text = "\n".join(map(str, examine_store(store, patch=32)))
    assert "only 12 pictures" in text
    assert "one in 4 training pictures was looked at" in text


def test_validation_folders_are_not_searched(healthy, tmp_path):
    tiny.pictures(tmp_path, 2, seed=9)  # beside the folder of training pictures, as a run takes them
    assert healthy.parent == tmp_path
    assert "validation" not in said(healthy, val=[tmp_path])
