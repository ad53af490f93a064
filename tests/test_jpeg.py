"""LR pictures that come from JPEG files: in training, in validation and in `esrgan test`."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from esrgan.benchmark import evaluate
from esrgan.cli import main
from esrgan.config import GeneratorConfig
from esrgan.config_file import plain
from esrgan.data import Patches, share_of_batch
from esrgan.device_patches import DevicePatches, patches_for
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.images import write_rgb
from esrgan.jpeg import compressed, compressed_square, compressed_tensor
from esrgan.jpeg_advice import quality_of
from esrgan.model_file import save_model
from esrgan.pairs import Pair
from esrgan.photo_store import PhotoStore
from esrgan.stages import pretrain, through_jpeg
from esrgan.stand_ins import Bicubic

CPU = torch.device("cpu")


def noise(rows=50, columns=70):
    return np.random.default_rng(0).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


@pytest.fixture
def store(tmp_path):
    return PhotoStore.of([tiny.pictures(tmp_path / "photos", 3)], scale=4, patch=32, cache=tmp_path / "cache")


def test_a_picture_is_what_its_jpeg_file_gives_back():
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, "JPEG", quality=60, subsampling=2)
    assert np.array_equal(compressed(noise(), 60), np.asarray(Image.open(file)))
    errors = [np.abs(compressed(noise(), quality) - noise().astype(int)).mean() for quality in (10, 50, 90)]
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 21), (17, 16), (18, 34), (30, 50)])
def test_a_square_is_that_of_the_whole_picture_compressed(top, left):
    picture = noise(48, 64)
    square = compressed_square(picture, top, left, 14, 50)
    assert np.array_equal(square, compressed(picture, 50)[top : top + 14, left : left + 14])


def test_of_patches_lr_alone_comes_from_jpeg_and_depends_on_seed_and_step(store):
    clean, jpeg = Patches(store, patch=32, seed=3), Patches(store, patch=32, seed=3, jpeg=(20, 60))
    (lr, hr), (worse, same) = clean(5, 8), jpeg(5, 8)
    assert torch.equal(hr, same)
    assert all(not torch.equal(a, b) for a, b in zip(lr, worse, strict=True))
    assert (lr.float() - worse.float()).abs().mean() < 45  # of other noise: 85
    assert torch.equal(worse, Patches(store, patch=32, seed=3, jpeg=(20, 60))(5, 8)[0])
    rows = share_of_batch(8, 1, 1, 2)
    assert torch.equal(jpeg(5, 8, rows)[0], worse[4:])


def test_qualities_span_the_range(store):
    patches, seen = Patches(store, patch=32, seed=0, jpeg=(30, 32)), set()
    patches.cut = lambda *places: seen.update(places[-1].tolist())
    for step in range(9):
        patches(step, 4)
    assert seen == {30, 31, 32}


def test_they_are_cut_by_the_cpu(store, monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (1 << 40, 1 << 40))
    monkeypatch.setattr(PhotoStore, "on", lambda self, _: (torch.empty(0), torch.empty(0)))
    cuda = torch.device("cuda")
    assert isinstance(patches_for(store, patch=32, seed=0, device=cuda), DevicePatches)
    assert not isinstance(patches_for(store, patch=32, seed=0, device=cuda, jpeg=(30, 90)), DevicePatches)


def test_validation_pictures_come_from_five_qualities_in_turn():
    lr = torch.rand(3, 32, 32)
    pairs = [through_jpeg(Pair("a", lr, torch.rand(3, 128, 128), grey=False), (40, 96), i) for i in range(6)]
    wanted = [compressed_tensor(lr, quality) for quality in (40, 54, 68, 82, 96, 40)]
    assert all(torch.equal(pair.lr, one) for pair, one in zip(pairs, wanted, strict=True))


def test_a_run_with_jpeg_says_so_and_is_not_mixed_with_another(tmp_path):
    config = tiny.stage_1(tmp_path, jpeg=(40, 90), val=(tiny.pictures(tmp_path / "val", 1, seed=7),))
    pretrain(config)
    assert plain(config)["jpeg"] == [40, 90]
    assert "jpeg = [" in (config.run_dir / "config.toml").read_text()
    with pytest.raises(EsrganError, match="jpeg"):
        pretrain(replace(config, jpeg=(), steps=20))


@pytest.mark.parametrize("jpeg", [(40,), (0, 50), (60, 50), (50, 101), (1, 2, 3)])
def test_qualities_that_cannot_be_are_refused(tmp_path, jpeg):
    with pytest.raises(EsrganError, match=r"jpeg is .*two qualities from 1 to 100"):
        tiny.stage_1(tmp_path, jpeg=jpeg)


def test_the_quality_of_a_file_is_known_without_a_word_of_its_size(tmp_path, recwarn):
    data = io.BytesIO()
    Image.new("RGB", (64, 64)).save(data, "JPEG", quality=60)
    frame = data.getvalue().index(b"\xff\xc0") + 5
    size = (9000).to_bytes(2, "big") + (12000).to_bytes(2, "big")
    (tmp_path / "a.jpg").write_bytes(data.getvalue()[:frame] + size + data.getvalue()[frame + 4 :])
    assert quality_of(tmp_path / "a.jpg") == 60
    assert not recwarn.list


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
def test_the_quality_of_a_file_is_known_by_its_tables(tmp_path, quality):
    Image.fromarray(noise()).save(tmp_path / "a.jpg", quality=quality)
    assert quality_of(tmp_path / "a.jpg") == quality


def test_of_what_is_no_jpeg_file_there_is_none(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    assert [quality_of(tmp_path / name) for name in ("a.png", "b.jpg", "gone.jpg")] == [None] * 3


@pytest.mark.parametrize(
    ("qualities", "options", "said"),
    [
        ((50, 95, 70), (), "2 of the first 3 JPEG files are of quality 50 to 70, .* --model lite_x4_jpeg"),
        ((60,), (), "1 of the first 1 JPEG files are of quality 60, whose"),
        ((90, 95), (), None),
        ((50,), ("--model", "lite_x4_gan"), None),
    ],
)
def test_who_enlarges_rough_jpegs_by_default_is_told_of_the_model_for_them(
    tmp_path, monkeypatch, capsys, qualities, options, said
):
    monkeypatch.setattr("esrgan.library.SHIPPED", tmp_path / "models")
    for name in ("lite_x4_gan", "lite_x4_jpeg"):
        save_model(Generator(GeneratorConfig(blocks=1, channels=8, growth=4)), tmp_path / f"models/{name}.safetensors")
    (tmp_path / "album").mkdir()
    for i, quality in enumerate(qualities):
        Image.fromarray(noise(16, 16) // 8 + 100).save(tmp_path / "album" / f"{i}.jpg", quality=quality)
    words = ["upscale", str(tmp_path / "album"), "--out", str(tmp_path / "out"), "--device", "cpu", *options]
    assert main(words) == 0
    err = capsys.readouterr().err
    assert re.search(said, err) if said else "quality" not in err


def test_scores_of_compressed_lr(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("esrgan.commands_test._lpips", lambda *_: (None, []))
    write_rgb(torch.rand(3, 6, 6).repeat_interleave(8, 1).repeat_interleave(8, 2), tmp_path / "a.png")
    reports = [evaluate(Bicubic(2), [tmp_path], jpeg=jpeg) for jpeg in (None, 90, 20)]
    scores = [report.datasets[0].mean("psnr_y") for report in reports]
    assert scores[0] > scores[1] > scores[2]
    assert "JPEG" not in reports[0].protocol
    assert "LR from JPEG files of quality 90 (4:2:0)" in reports[1].protocol
    words = ["test", "--data", str(tmp_path), "--model", "bicubic", "--scale", "2"]
    assert main([*words, "--jpeg", "20", "--json", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["datasets"][0]["psnr_y"] == pytest.approx(scores[2])
    capsys.readouterr()
    assert main([*words, "--jpeg", "0"]) == 2
    assert "--jpeg" in capsys.readouterr().err
    with pytest.raises(EsrganError, match="jpeg is 0; the quality of a JPEG file is from 1 to 100"):
        evaluate(Bicubic(2), [tmp_path], jpeg=0)


def test_a_tensor_is_rounded_to_8_bits_before_it_becomes_jpeg():
    image = (torch.from_numpy(noise(32, 32)).permute(2, 0, 1) - 0.4) / 255
    assert np.array_equal((compressed_tensor(image, 90) * 255).permute(1, 2, 0).round(), compressed(noise(32, 32), 90))
