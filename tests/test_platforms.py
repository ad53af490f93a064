"""What other systems and devices need, tried here as far as that goes."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import photo
from PIL import Image

from esrgan import files
from esrgan.cli import _Unread
from esrgan.devices import layout
from esrgan.engines import _all_bits
from esrgan.enlarge_file import Enlargement, _check_room
from esrgan.errors import EsrganError, UsageError, is_unread, until_unread
from esrgan.files import move
from esrgan.folders import Naming, plan
from esrgan.images import find_images, read_list
from esrgan.library import find_model
from esrgan.memory import is_out_of_memory
from esrgan.model_file import load_model
from esrgan.photo_store import default_cache
from esrgan.record import Record
from esrgan.tile_size import usual_tile
from esrgan.upscale_one import upscale
from esrgan.upscale_run import _at_once


def test_pictures_are_the_same_through_the_pipe_of_windows(monkeypatch, upscaler):
    content = io.BytesIO()
    photo().save(content, "png")
    here = upscale(content.getvalue(), model=upscaler)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        there = upscale(content.getvalue(), model=upscaler)
    assert there == here
    assert Image.open(io.BytesIO(here)).size == (4 * photo().width, 4 * photo().height)


def test_on_windows_a_file_that_somebody_holds_is_waited_for(monkeypatch, tmp_path):
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    held, tries, replace = 3, [], Path.replace

    def busy(path, target):
        tries.append(path)
        if len(tries) <= held:
            raise PermissionError(13, "in use")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", busy)
    monkeypatch.setattr(files, "WAITS", (0.0,) * 5)
    with pytest.raises(PermissionError):
        move(tmp_path / "new", tmp_path / "old")
    tries.clear()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        move(tmp_path / "new", tmp_path / "old")
        assert len(tries) == held + 1
        tries.clear()
        held = 99
        with pytest.raises(PermissionError):
            move(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "old").read_text() == "new"


def test_windows_words_for_too_little_memory_are_known():
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory:"))
    assert not is_out_of_memory(RuntimeError("not enough arguments"))


def test_a_model_that_was_read_holds_no_file(model_file, tmp_path):
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(model_file.read_bytes())
    network = load_model(copy)
    before = network.conv_first.weight.clone()
    copy.write_bytes(bytes(len(model_file.read_bytes())))
    assert torch.equal(network.conv_first.weight, before)
    if sys.platform == "linux":
        assert str(copy) not in Path("/proc/self/maps").read_text()


def test_drives_that_number_no_files_are_read_whole(monkeypatch, tmp_path):
    for name in ("a/1.png", "b/2.png", "b/c/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    stat = Path.stat

    def unnumbered(path, **options):
        found = list(stat(path, **options))
        found[1] = 0
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", unnumbered)
    assert [path.name for path in find_images([tmp_path])] == ["1.png", "2.png", "3.png"]


@pytest.mark.parametrize(("one", "other"), [("IMG.png", "img.png"), ("caf\u00e9.png", "cafe\u0301.png")])
def test_on_macos_names_that_differ_by_case_or_accents_are_one(monkeypatch, tmp_path, one, other):
    for folder, name in (("a", one), ("b", other)):
        (tmp_path / folder).mkdir()
        photo(8, 8).save(tmp_path / folder / name)
    naming = Naming(out=tmp_path / "out", how=Enlargement(), network_scale=4, limit_pixels=10**8)
    assert len(plan([tmp_path / "a", tmp_path / "b"], naming).jobs) == 2
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        with pytest.raises(UsageError, match="would both become"):
            plan([tmp_path / "a", tmp_path / "b"], naming)


def test_on_windows_wildcards_are_ours(monkeypatch, tmp_path):
    for name in ("b.png", "a.png", "c.txt"):
        (tmp_path / name).touch()
    with pytest.raises(EsrganError, match="there is no picture"):
        find_images([tmp_path / "*.png"])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        assert find_images([tmp_path / "*.png"]) == [tmp_path / "a.png", tmp_path / "b.png"]
        with pytest.raises(EsrganError, match=r"no picture or folder .*\*\.jpg"):
            find_images([tmp_path / "*.jpg"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_lists_are_read_as_windows_writes_them(tmp_path, encoding):
    text = "\ufeffd\u00e9j\u00e0.png\r\nb.png\r\n" if encoding == "utf-16-le" else "d\u00e9j\u00e0.png\r\nb.png\r\n"
    (tmp_path / "list.txt").write_bytes(text.encode(encoding))
    assert read_list(tmp_path / "list.txt") == [tmp_path / "d\u00e9j\u00e0.png", tmp_path / "b.png"]


def test_pictures_are_in_the_same_order_everywhere(monkeypatch, tmp_path):
    for name in ("a.png", "IMG_1.png", "sub/B.png", "b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    here = find_images([tmp_path])
    assert [path.name for path in here] == ["IMG_1.png", "a.png", "b.png", "B.png"]
    windows = type("Windows", (type(tmp_path),), {"__lt__": lambda one, other: str(one).lower() < str(other).lower()})
    assert list(map(str, find_images([windows(tmp_path)]))) == list(map(str, here))


def test_on_windows_a_pipe_that_nobody_reads_has_another_error(monkeypatch):
    unread = OSError(errno.EINVAL, "Invalid argument")
    assert not is_unread(unread)
    assert is_unread(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    monkeypatch.setattr(sys, "platform", "win32")
    assert is_unread(unread)
    assert not is_unread(OSError(errno.EINVAL, "Invalid argument", "a?b"))
    assert not is_unread(OSError(errno.ENOSPC, "No space left on device"))
    with until_unread():
        raise unread
    with pytest.raises(OSError, match="No space"), until_unread():
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_run_of_names_goes_on_when_windows_says_that_nobody_reads_them(monkeypatch, tmp_path):
    with (tmp_path / "names").open("wb") as file:
        stream = _Unread(file, "utf-8", line_buffering=True)
        monkeypatch.setattr(sys, "platform", "win32")
        stream._to_nowhere(OSError(errno.EINVAL, "Invalid argument"))
        print("more", file=stream)
        with pytest.raises(OSError, match="No space"):
            stream._to_nowhere(OSError(errno.ENOSPC, "No space left on device"))
    assert not (tmp_path / "names").read_bytes()


def test_records_are_found_by_names_as_the_disk_knows_them(monkeypatch, tmp_path):
    (tmp_path / "IMG_x4.png").write_bytes(b"a picture")
    Record(tmp_path).add_alone(tmp_path / "IMG_x4.png", tmp_path / "IMG_x4.png")
    assert not Record(tmp_path)._entries.keys() & {"img_x4.png"}
    monkeypatch.setattr(sys, "platform", "darwin")
    (tmp_path / "img_x4.png").write_bytes(b"a picture")  # the same file there
    assert Record(tmp_path).is_result(tmp_path / "img_x4.png")


def test_a_disk_that_tells_no_size_is_written_to(monkeypatch, tmp_path):
    with (tmp_path / "file").open("wb") as file:
        disk = os.fstatvfs(file.fileno())
        monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result([0] * len(disk)))
        _check_room(file.fileno(), 10**15)
        monkeypatch.setattr(os, "fstatvfs", lambda _: disk)
        with pytest.raises(EsrganError, match="free"):
            _check_room(file.fileno(), 10**18)


def test_models_of_the_package_need_no_home_folder(monkeypatch):
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "ESRGAN_MODELS"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert find_model("lite_x4_psnr").name == "lite_x4_psnr.safetensors"
    with pytest.raises(EsrganError, match="no home folder; let ESRGAN_MODELS"):
        find_model("mine")
    with pytest.raises(EsrganError, match="no home folder; let --cache"):
        default_cache()


def test_records_know_the_files_of_other_systems(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").touch()
    record = Record(tmp_path)
    record.add_alone(tmp_path / "sub" / "a.png", tmp_path / "sub" / "a.png")
    assert '"sub/a.png"' in next(tmp_path.glob(".esrgan*")).read_text()


@pytest.mark.parametrize(
    "said", ["GET was unable to find an engine to execute this computation", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"]
)
def test_cudnns_words_for_too_little_memory_are_known(said):
    assert is_out_of_memory(RuntimeError(said))


@pytest.mark.parametrize(
    ("gigabytes", "expected"), [(1, (2, 288, 320)), (4, (4, 288, 320)), (6, (6, 544, 576)), (40, (8, 1056, 1088))]
)
def test_a_gpu_takes_as_much_at_once_as_its_memory_allows(monkeypatch, gigabytes, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (gigabytes << 30, 80 << 30))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    cuda = torch.device("cuda")
    assert (_at_once(cuda), *(usual_tile(cuda, overlap, 4, vulkan=False) for overlap in (16, 32))) == expected
    assert usual_tile(cuda, 32, 8, vulkan=False) <= 576


def test_pictures_lie_channels_last_but_on_apples_gpus():
    assert layout(torch.device("cuda")) == layout(torch.device("cpu")) == torch.channels_last
    assert layout(torch.device("mps")) == torch.contiguous_format


def test_all_bits_of_fp32_count_on_cuda_and_the_switch_goes_back():
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    with _all_bits(torch.device("cuda"), torch.float32):
        assert convolutions.fp32_precision == "ieee"
    with _all_bits(torch.device("cuda"), torch.float16):
        assert convolutions.fp32_precision == before
    assert convolutions.fp32_precision == before
