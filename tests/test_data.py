import os

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from esrgan.data import Patches, share_of_batch, to_unit, turned
from esrgan.errors import EsrganError
from esrgan.images import read_bytes8
from esrgan.photo_store import PhotoStore
from esrgan.resize import make_lr


@pytest.fixture
def store(tmp_path):
    return PhotoStore.of([tiny.pictures(tmp_path / "photos", 3)], scale=4, patch=32, cache=tmp_path / "cache")


def test_a_store_holds_the_pictures_and_their_lr(store):
    lr, hr = store.picture(1)
    whole = read_bytes8(type(store.folder)(store.names[1]))
    assert np.array_equal(hr, whole.numpy())
    wanted = make_lr(whole.permute(2, 0, 1) / 255, 4) * 255
    assert np.array_equal(lr, wanted.round().byte().permute(1, 2, 0).numpy())


def test_decoding_happens_once(store, tmp_path):
    before = (store.folder / "hr").stat().st_mtime_ns
    again = PhotoStore.of([tmp_path / "photos"], scale=4, patch=32, cache=tmp_path / "cache")
    assert (again.folder / "hr").stat().st_mtime_ns == before


def test_what_another_process_still_decodes_is_left_alone_and_what_it_left_for_a_day_is_not(store, tmp_path):
    parts = [tmp_path / "cache" / f"{name}.part" for name in ("going", "gone")]
    for part in parts:
        part.mkdir()
        (part / "hr").write_bytes(b"1")
        os.utime(part, (1, 1))
    os.utime(parts[1] / "hr", (1, 1))
    (tmp_path / "cache" / "moved.part").symlink_to(tmp_path / "nowhere")
    PhotoStore.of([tmp_path / "photos"], scale=2, patch=32, cache=tmp_path / "cache")
    assert [part.exists() for part in parts] == [True, False]


def test_batches_depend_on_seed_and_step_alone(store):
    patches = Patches(store, patch=32, seed=3)
    later = {step: hr for step, _, hr in patches.ahead(5, 7, 4)}
    assert torch.equal(later[6], Patches(store, patch=32, seed=3)(6, 4)[1])
    assert not torch.equal(later[6], later[7])
    assert not torch.equal(later[6], Patches(store, patch=32, seed=4)(6, 4)[1])


def test_patches_are_cut_from_the_pictures_flipped_and_transposed(store):
    lr, hr = Patches(store, patch=32, seed=0)(1, 6)
    for small, large in zip(lr, hr, strict=True):
        spots = [
            (i, y, x) for i in range(3) for y in range(store.shapes[i][0] - 7) for x in range(store.shapes[i][1] - 7)
        ]
        assert any(
            np.array_equal(cut(store.picture(i)[0], y, x, 8, turn), small)
            and np.array_equal(cut(store.picture(i)[1], 4 * y, 4 * x, 32, turn), large)
            for i, y, x in spots
            for turn in range(8)
        )


def cut(picture, y, x, side, turn):
    return turned(picture[y : y + side, x : x + side], turn).transpose(2, 0, 1)


def test_no_patch_has_black_corners(tmp_path):
    Image.new("RGB", (200, 64), (200, 180, 160)).save(tmp_path / "wide.png")
    store = PhotoStore.of([tmp_path], scale=4, patch=48, cache=tmp_path / "cache")
    _, hr = Patches(store, patch=48, seed=0)(1, 64)
    assert hr.min() == 160


def test_the_eight_turns_are_all_different():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert len({turned(image, turn).tobytes() for turn in range(8)}) == 8


def test_broken_and_small_pictures_are_named_and_stop_nothing(tmp_path):
    folder = tiny.pictures(tmp_path / "photos", 2)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Image.new("RGB", (16, 16)).save(folder / "small.png")
    (folder / "link.png").symlink_to(folder / "gone.png")
    store = PhotoStore.of([folder], scale=4, patch=32, cache=tmp_path / "cache")
    assert len(store) == 2
    assert ["broken" in "".join(store.skipped), "small" in "".join(store.skipped), len(store.skipped)] == [
        True,
        True,
        3,
    ]


def test_patches_of_every_size_come_from_one_store_without_the_pictures_too_small_for_them(tmp_path):
    folder = tiny.pictures(tmp_path / "photos", 2)
    tiny.pictures(folder, 1, seed=-1, size=(64, 40))  # "-1_0.png", which comes first
    small, large = (PhotoStore.of([folder], scale=4, patch=side, cache=tmp_path / "cache") for side in (32, 48))
    assert small.folder == large.folder
    assert (len(small), len(large), small.skipped) == (3, 2, [])
    assert "40 x 64 pixels, smaller than the patch of 48" in large.skipped[0]
    assert large.digest != small.digest
    assert large.names == small.names[1:]
    for i in range(2):
        for mine, theirs in zip(large.picture(i), small.picture(i + 1), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    lr, hr = large.on(torch.device("cpu"))
    assert lr.numel() + hr.numel() == large.bytes
    np.testing.assert_array_equal(hr[: 96 * 128].view(96, 128, 3), large.picture(0)[1])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_no_usable_picture_is_an_error_that_says_why(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "small.png")
    with pytest.raises(EsrganError, match=r"small\.png"):
        PhotoStore.of([tmp_path], scale=4, patch=32, cache=tmp_path / "cache")


def test_grey_palette_alpha_and_16_bit_pictures_are_used(tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    grey = Image.fromarray((np.random.default_rng(0).random((40, 40)) * 255).astype(np.uint8))
    grey.save(folder / "grey.png")
    grey.convert("P").save(folder / "palette.png")
    grey.convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(np.full((40, 40), 40000, np.uint16)).save(folder / "deep.png")
    store = PhotoStore.of([folder], scale=4, patch=32, cache=tmp_path / "cache")
    assert len(store) == 4
    assert store.picture([n.endswith("deep.png") for n in store.names].index(True))[1].max() == round(40000 / 257)


def test_a_subset_is_a_share_and_repeats(tmp_path):
    folder = tiny.pictures(tmp_path / "photos", 10)
    stores = [PhotoStore.of([folder], scale=4, patch=32, cache=tmp_path / "c", subset=0.3, seed=1) for _ in range(2)]
    assert len(stores[0]) == 3
    assert stores[0].names == stores[1].names


def test_a_damaged_store_is_noticed(store):
    (store.folder / "hr").write_bytes(b"short")
    with pytest.raises(EsrganError, match="damaged"):
        PhotoStore(store.folder, 4, 32)


def test_a_store_of_which_somebody_deleted_half_is_built_anew(store, tmp_path):
    (store.folder / "index.json").unlink()
    again = PhotoStore.of([tmp_path / "photos"], scale=4, patch=32, cache=tmp_path / "cache")
    assert len(again) == len(store)


def test_the_digest_is_of_the_content(store, tmp_path):
    moved = tiny.pictures(tmp_path / "elsewhere", 3)
    again = PhotoStore.of([moved], scale=4, patch=32, cache=tmp_path / "cache")
    other = PhotoStore.of([tiny.pictures(tmp_path / "new", 3, seed=9)], scale=4, patch=32, cache=tmp_path / "cache")
    assert again.folder != store.folder
    assert again.digest == store.digest != other.digest


def test_processes_share_every_forward_pass():
    shares = [share_of_batch(4, 2, rank, 2).tolist() for rank in range(2)]
    assert shares == [[0, 1, 4, 5], [2, 3, 6, 7]]
    with pytest.raises(EsrganError, match="multiple of 3"):
        share_of_batch(4, 1, 0, 3)


def test_a_share_is_a_part_of_the_whole_batch(store):
    patches = Patches(store, patch=32, seed=0)
    whole, part = patches(9, 8)[1], patches(9, 8, np.array([2, 3, 6, 7]))[1]
    assert torch.equal(whole[[2, 3, 6, 7]], part)


def test_levels_become_0_to_1():
    assert to_unit(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), "cpu").tolist() == [[[[0.0, 1.0]]]]


@pytest.mark.parametrize("name", ["index.json", "lr"])
def test_a_store_that_lost_a_file_says_what_to_do(tmp_path, name):
    folder = tiny.pictures(tmp_path / "photos", 2)
    store = PhotoStore.of([folder], scale=4, patch=32, cache=tmp_path / "cache")
    (store.folder / name).write_bytes(b"")
    with pytest.raises(EsrganError, match="damaged; delete that folder and start again"):
        PhotoStore.of([folder], scale=4, patch=32, cache=tmp_path / "cache")


def test_every_place_of_every_picture_comes_up_in_all_eight_turns(tmp_path):
    folder = tiny.pictures(tmp_path / "photos", 2, size=(40, 64))
    store = PhotoStore.of([folder], scale=4, patch=32, cache=tmp_path / "cache")
    patches, seen = Patches(store, patch=32, seed=0), set()
    patches.cut = lambda *places: seen.update(zip(*(row.tolist() for row in places[:4]), strict=True))
    for step in range(100):
        patches(step, 64)
    assert seen == {(i, y, x, turn) for i in range(2) for y in range(3) for x in range(9) for turn in range(8)}
