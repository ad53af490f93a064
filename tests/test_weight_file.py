import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from esrgan import EsrganError, Generator, GeneratorConfig, load_model
from esrgan.ncnn_export import write_ncnn
from esrgan.weight_file import read_weights

TINY = GeneratorConfig(channels=8, growth=4, blocks=1)


class Runs:
    """Pickled, this is a call of ``os.system``."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


class Claims:
    """Pickled, this is a call that takes as much memory as it says; ``weights_only`` allows it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (self.size,)


def weights() -> dict[str, torch.Tensor]:
    return Generator(TINY, start="paper").state_dict()


def edited(path: Path, out: Path, *, drop: str = "", compress: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compress) as new:
        for entry in old.infolist():
            if not drop or drop not in entry.filename:
                new.writestr(entry.filename, old.read(entry))


@pytest.mark.parametrize("new_format", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(new_format: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    content = weights() | {"evil": Runs(mark)}
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(EsrganError, match=r"asks for 'posix\.system'.*nothing in it was run"):
        load_model(tmp_path / "m.pth")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_malicious_pickle_of_any_protocol_is_refused(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "m.pth").write_bytes(pickle.dumps(Runs(mark), protocol))
    with pytest.raises(EsrganError, match=r"m\.pth"):
        load_model(tmp_path / "m.pth")
    assert not mark.exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_claims_memory_is_refused(new_format: bool, tmp_path: Path) -> None:
    torch.save(weights() | {"x": Claims(2**40)}, tmp_path / "m.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(EsrganError, match="bytearray"):
        load_model(tmp_path / "m.pth")


def test_a_second_pickle_that_only_torch_finds_is_refused(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.pth")
    torch.save(weights() | {"x": Claims(2**40)}, tmp_path / "b.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as good, zipfile.ZipFile(tmp_path / "b.pth") as bad:
        for evil in ("m/DATA.PKL", "m/Data.pkl"):  # torch finds names in lower and upper case alike, the first one
            with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
                archive.writestr(evil, bad.read("b/data.pkl"))
                for entry in good.infolist():
                    archive.writestr(entry.filename.replace("a/", "m/", 1), good.read(entry))
            with pytest.raises(EsrganError, match="malicious: refused"):
                read_weights(tmp_path / "m.pth")


def test_a_tensor_that_repeats_one_number_for_ever_is_refused(tmp_path: Path) -> None:
    torch.save(weights() | {"x": torch.zeros(1).expand(2**40)}, tmp_path / "m.pth")
    with pytest.raises(EsrganError, match="claims more numbers than it holds"):
        load_model(tmp_path / "m.pth")


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(10_000_000)}, tmp_path / "m.pth")
    edited(tmp_path / "m.pth", tmp_path / "bomb.pth", compress=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    with pytest.raises(EsrganError, match="compressed archive"):
        read_weights(tmp_path / "bomb.pth")


def test_a_storage_larger_than_its_record_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000), "b": torch.zeros(2)}, tmp_path / "m.pth")
    data = (tmp_path / "m.pth").read_bytes().replace(struct.pack("<BH", 0x4D, 1000), struct.pack("<BH", 0x4D, 60000))
    (tmp_path / "m.pth").write_bytes(data)
    with pytest.raises(EsrganError, match=r"m\.pth"):
        read_weights(tmp_path / "m.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "ncnn"])
def test_a_file_cut_off_anywhere_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / {"safetensors": "m.safetensors", "ncnn": "m.bin"}.get(kind, "m.pth")
    if kind == "safetensors":
        save_file(weights(), path)
    elif kind == "ncnn":
        write_ncnn(Generator(TINY, start="paper"), tmp_path / "m.param", path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for length in (0, 1, 4, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(EsrganError) as error:
            load_model(path)
        assert str(path.parent) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "a picture"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"", "empty"),
        (b"hello", "unknown kind"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"m.pth" + bytes(252) + b"ustar\0", "tar archive"),
        (struct.pack("<Q", 2**62) + b"{}", "damaged safetensors"),
        (b"7767517\n3 3\nInput data 0 1 data\nbroken line\n", "damaged ncnn"),
        (b"7767517\n\xff\xfe", "damaged ncnn"),
        (b"7767517\n1 1\nConvolution c 0 1 x 0=" + b"9" * 5000 + b"\nPReLU p 1 1 x y 0=1", "another architecture"),
    ],
)
def test_what_is_no_model_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    (tmp_path / "m.bin").write_bytes(b"")
    with pytest.raises(EsrganError, match=said):
        load_model(tmp_path / "m.safetensors")


def test_names_do_not_matter(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "m.pth")
    torch.save(weights(), tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.pth").config == TINY
    assert load_model(tmp_path / "m.safetensors").config == TINY


def test_a_missing_file_and_a_missing_half_are_named(tmp_path: Path) -> None:
    with pytest.raises(EsrganError, match="there is no model file"):
        load_model(tmp_path / "m.pth")
    write_ncnn(Generator(TINY, start="paper"), tmp_path / "m.param", tmp_path / "m.bin")
    (tmp_path / "m.bin").unlink()
    with pytest.raises(EsrganError, match=r"m\.bin, must lie beside it"):
        load_model(tmp_path / "m.param")


def test_a_quantised_ncnn_model_and_a_foreign_bin_are_refused(tmp_path: Path) -> None:
    write_ncnn(Generator(TINY, start="paper"), tmp_path / "m.param", tmp_path / "m.bin")
    data = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes((0x000D4B38).to_bytes(4, "little") + data[4:])
    with pytest.raises(EsrganError, match="quantised"):
        load_model(tmp_path / "m.param")
    (tmp_path / "m.bin").write_bytes(data + b"more")
    with pytest.raises(EsrganError, match="4 bytes are left over"):
        load_model(tmp_path / "m.param")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("-23310=1,0.2", "-23310=1,0.1"),
        ("-23301=2,0.2,", "-23301=2,0.3,"),
        ("0=1 1=2.0", "0=2 1=2.0"),
        ("0=1 1=2.0 2=2.0", "0=1 1=2.0 2=4.0"),
        ("0=4 1=3 3=1 4=1", "0=4 1=3 3=2 4=1"),
        ("0=4 1=3 3=1 4=1", "0=4 1=3 2=2 3=1 4=1"),
        ("0=4 1=3 3=1 4=1", "0=4 1=3 3=1 4=0"),
        (" 0=1 -23301=", " 0=2 -23301="),
        (" 0=0\nConvolution", " 0=1\nConvolution"),
        ("blob1_split0", "elsewhere"),
        ("-23301=2,0.2,1.0", "-23301=2,1.0,0.2"),  # the skip is scaled, not what is new
        ("0=4 1=3 3=1 4=1", "0=4 1=3 3=1 4=1 14=0"),
        ("0=4 1=3 3=1 4=1", "0=4 1=3 3=1 4=1 18=0.5"),
    ],
)
def test_an_ncnn_network_with_other_constants_is_not_taken_for_esrgan(before: str, after: str, tmp_path: Path) -> None:
    write_ncnn(Generator(TINY, start="paper"), tmp_path / "m.param", tmp_path / "m.bin")
    text = (tmp_path / "m.param").read_text()
    assert before in text
    (tmp_path / "m.param").write_text(text.replace(before, after, 1))
    with pytest.raises(EsrganError, match="another network than ESRGAN"):
        load_model(tmp_path / "m.param")


def test_an_ncnn_network_that_is_wired_otherwise_is_not_taken_for_esrgan(tmp_path: Path) -> None:
    write_ncnn(Generator(TINY), tmp_path / "m.param", tmp_path / "m.bin")
    lines = (tmp_path / "m.param").read_text().splitlines()
    for kind in ("Concat", "Eltwise"):
        place = next(i for i, line in enumerate(lines) if line.startswith(kind))
        words = lines[place].split()
        words[4], words[5] = words[5], words[4]  # the first two inputs
        changed = [*lines[:place], " ".join(words), *lines[place + 1 :], "", " "]
        (tmp_path / "m.param").write_text("\n".join(changed))
        with pytest.raises(EsrganError, match="another network than ESRGAN"):
            load_model(tmp_path / "m.param")
    (tmp_path / "m.param").write_text("\n".join([*lines, "", " "]))  # empty lines at the end do no harm
    assert load_model(tmp_path / "m.param").config == TINY


def test_programs_are_refused_as_such(tmp_path: Path) -> None:
    for inside in ("m/code/net.py", "m/archive_format"):
        with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(inside, "pt2")
        with pytest.raises(EsrganError, match="TorchScript or exported program"):
            load_model(tmp_path / "m.pt")


def test_a_training_state_is_no_model(tmp_path: Path) -> None:
    torch.save({"iter": 5, "optimizers": [{"state": {}}]}, tmp_path / "m.pth")
    with pytest.raises(EsrganError, match="a training state is no model"):
        load_model(tmp_path / "m.pth")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a peak anew")
def test_memory_stays_within_a_few_times_the_size_of_the_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(weights() | {"x": torch.zeros(20_000_000)}, buffer)
    (tmp_path / "m.pth").write_bytes(buffer.getvalue())
    script = (  # ru_maxrss will not do: a child begins with its parent's
        "import sys; from pathlib import Path; from esrgan.weight_file import read_weights\n"
        "def memory(name): return int(Path('/proc/self/status').read_text().split(name + ':')[1].split()[0])\n"
        "Path('/proc/self/clear_refs').write_text('5'); before = memory('VmRSS'); read_weights(Path(sys.argv[1]))\n"
        "print(memory('VmHWM') - before)"
    )
    kilobytes = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m.pth")], capture_output=True, text=True, check=True
    )
    assert len(buffer.getvalue()) / 2 < int(kilobytes.stdout) * 1024 < 3 * len(buffer.getvalue())


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "param", "bin"])
def test_bytes_changed_anywhere_are_one_line_at_worst(kind: str, tmp_path: Path) -> None:
    write_ncnn(Generator(TINY, start="paper"), tmp_path / "m.param", tmp_path / "m.bin", half=True)
    save_file(weights(), tmp_path / "m.safetensors")
    torch.save(weights(), tmp_path / "m.zip")
    torch.save(weights(), tmp_path / "m.legacy", _use_new_zipfile_serialization=False)
    path, chance = tmp_path / f"m.{kind}", random.Random(0)
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            start = chance.choice((0, max(0, len(whole) - 4000), chance.randrange(len(whole))))
            damaged[min(start + chance.randrange(4000), len(whole) - 1)] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            load_model(path)
        except EsrganError as error:
            assert "\n" not in str(error)  # noqa: PT017 - a change may also do no harm


@pytest.mark.parametrize(
    "lie", ["0=99999999999999999999", "0=-1", "0=nan", "-23300=0", "1=0", "6=5", "6=99999999", "5=0"]
)
def test_a_param_file_that_lies_about_a_layer_is_one_line(lie: str, tmp_path: Path) -> None:
    write_ncnn(Generator(TINY, start="paper"), tmp_path / "m.param", tmp_path / "m.bin")
    text = (tmp_path / "m.param").read_text()
    for place in (text.index(" 0=8"), text.index(" 0=4"), text.rindex(" 0=3")):
        line_end = text.index("\n", place)
        (tmp_path / "m.param").write_text(f"{text[:line_end]} {lie}{text[line_end:]}")
        with pytest.raises(EsrganError) as error:
            load_model(tmp_path / "m.param")
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600


def test_damaged_pickles_say_nothing_beside_the_error(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.save(weights(), tmp_path / "m.pth", _use_new_zipfile_serialization=False, pickle_protocol=3)
    assert load_model(tmp_path / "m.pth").config == TINY  # torch itself warns of another protocol than 2
    data = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(data[:2] + b"S'\\\xcc'\n0" + data[2:])
    with pytest.raises(EsrganError):
        load_model(tmp_path / "m.pth")
    assert not recwarn.list
