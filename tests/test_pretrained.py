import os
import pickle
from dataclasses import replace
from hashlib import sha256

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from esrgan import pretrained
from esrgan.errors import EsrganError
from esrgan.lpips import LPIPS


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_tensors_are_read_from_every_kind_of_file_in_fp32(tmp_path):
    tensors = {"a": torch.arange(3.0).half(), "b": torch.ones(1)}
    torch.save(tensors, tmp_path / "w.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)  # as torchvision's VGG19
    save_file(tensors, tmp_path / "w.safetensors")
    for name in ("w.pth", "old.pth", "w.safetensors"):
        found = pretrained.read(tmp_path / name)["a"]
        assert found.dtype == torch.float32
        assert found.tolist() == [0, 1, 2]


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"a": Evil()}, tmp_path / "zip.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("zip.pth", "raw.pth"):
        with pytest.raises(EsrganError, match=name):
            pretrained.read(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 half a zip"])
def test_a_file_of_something_else_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EsrganError, match=name):
        pretrained.read(tmp_path / name)


def test_a_pickle_of_something_else_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(EsrganError, match=r"list\.pth"):
        pretrained.read(tmp_path / "list.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EsrganError, match="absent"):
        pretrained.read(tmp_path / "absent.pth")


def test_a_file_in_the_cache_is_taken_as_it_is(cache):
    cache.mkdir(parents=True)
    (cache / pretrained.VGG19.name).write_bytes(b"x")
    assert pretrained.fetch(pretrained.VGG19) == cache / pretrained.VGG19.name


def test_a_download_is_kept_if_its_hash_is_right_and_nothing_is_if_not(cache, tmp_path, capsys):
    source = tmp_path / "source.bin"
    source.write_bytes(b"weights")
    right = replace(pretrained.VGG19, url=source.as_uri(), sha256=sha256(b"weights").hexdigest()[:8])
    with pytest.raises(EsrganError, match="invalid hash value"):
        pretrained.fetch(replace(right, sha256="00000000"))
    assert not list(cache.iterdir())
    assert pretrained.fetch(right).read_bytes() == b"weights"


def test_where_there_is_no_network_the_message_says_what_to_do(cache):
    unreachable = replace(pretrained.VGG19, url="http://127.0.0.1:9/vgg19.pth")
    with pytest.raises(EsrganError, match=r"elsewhere and put it at .*vgg19-dcbb9e9d\.pth, or .* with --vgg"):
        pretrained.fetch(unreachable)


def test_lpips_takes_the_authors_file_with_the_alexnet_of_the_cache(cache, tmp_path):
    tensors = load_file(tiny.lpips(tmp_path / "all.safetensors"))
    authors = {f"lin{i}.model.1.weight": tensors.pop(f"lin{i}.weight") for i in range(5)}
    torch.save(authors, tmp_path / "alex.pth")
    with pytest.raises(EsrganError, match=r"cannot fetch .*put it at .*alexnet-owt-7be5be79\.pth"):
        LPIPS(tmp_path / "alex.pth")
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, cache / pretrained.ALEXNET.name)
    sr, hr = torch.rand(1, 3, 40, 40), torch.rand(1, 3, 40, 40)
    assert torch.equal(LPIPS(tmp_path / "alex.pth")(sr, hr), LPIPS(tmp_path / "all.safetensors")(sr, hr))


def test_authors_names_beside_alexnet_are_understood_too(tmp_path):
    tensors = load_file(tiny.lpips(tmp_path / "all.safetensors"))
    renamed = {name.replace(".weight", ".model.1.weight") if "lin" in name else name: t for name, t in tensors.items()}
    save_file(renamed, tmp_path / "merged.safetensors")
    assert torch.equal(LPIPS(tmp_path / "merged.safetensors").lin0.weight, tensors["lin0.weight"])
