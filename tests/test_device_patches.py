import pytest
import tiny
import torch

from esrgan.data import Patches
from esrgan.device_patches import DevicePatches, patches_for
from esrgan.photo_store import PhotoStore

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path):
    tiny.pictures(tmp_path / "photos", 2, size=(96, 128))
    tiny.pictures(tmp_path / "photos", 2, seed=1, size=(64, 40))
    return PhotoStore.of([tmp_path / "photos"], scale=4, patch=32, cache=tmp_path / "cache")


@pytest.mark.parametrize("patch", [32, 48])  # of which every picture holds the first
def test_gathered_patches_equal_those_that_the_cpu_cuts(store, tmp_path, patch):
    store = PhotoStore.of([tmp_path / "photos"], scale=4, patch=patch, cache=tmp_path / "cache")
    cut, gathered = Patches(store, patch=patch, seed=3), DevicePatches(store, patch=patch, seed=3, device=CPU)
    for (_, *one), (_, *other) in zip(cut.ahead(1, 4, 64), gathered.ahead(1, 4, 64), strict=True):
        assert all(map(torch.equal, one, other))  # 64 patches show all pictures and turns


def test_a_process_gathers_its_share(store):
    rows = [1, 5]
    one, other = (p(2, 8, rows) for p in (Patches(store, patch=32, seed=0),
                                          DevicePatches(store, patch=32, seed=0, device=CPU)))  # fmt: skip
    assert all(map(torch.equal, one, other))


def test_without_a_gpu_the_cpu_cuts(store):
    assert type(patches_for(store, patch=32, seed=0, device=CPU)) is Patches


@pytest.mark.parametrize(("free", "kind"), [(4, DevicePatches), (3.9, Patches)])
def test_a_gpu_gathers_where_the_pictures_take_a_quarter_of_its_free_memory_at_most(store, monkeypatch, free, kind):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free * store.bytes, 1 << 40))
    monkeypatch.setattr(PhotoStore, "on", lambda self, _: (torch.empty(0), torch.empty(0)))
    assert type(patches_for(store, patch=32, seed=0, device=torch.device("cuda"))) is kind
