import os
import pickle
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save_file

from esrgan import pretrained
from esrgan.errors import EsrganError


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
    with pytest.raises(EsrganError, match=r"give a file with --vgg FILE, or put it at .*vgg19-dcbb9e9d\.pth"):
        pretrained.fetch(unreachable)
