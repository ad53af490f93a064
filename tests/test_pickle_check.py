import io
import os
import pickle
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from esrgan import EsrganError, Generator, GeneratorConfig, load_model
from esrgan.pickle_check import look_through

TINY = GeneratorConfig(channels=8, growth=4, blocks=1)


class Calls:
    """Pickled, this is a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def nested(depth: int, end: bytes = b"]") -> bytes:
    """Lists, each twice in the next: few bytes, 2^depth entries in print. ``end`` makes the innermost."""
    layers = (b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(depth))
    return end + b"q\0" + b"".join(layers)


def tuples(depth: int) -> bytes:
    """Tuples, each twice in the next, which take 2^depth steps to look up."""
    return b")q\0" + b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(depth))


def training_state(net: Generator) -> dict[str, Any]:
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])  # its milestones are a Counter
    return {"optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict(), "seen": {1, 2}, "best": 31.5}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["model", "net_g", "params", "G", "some/key"])
def test_weights_are_found_beside_an_optimizers_state(key: str, zipped: bool, tmp_path: Path) -> None:
    net = Generator(TINY, start="paper").eval()
    state = training_state(net)
    discriminator = {f"features.{i}.weight": torch.zeros(2, 2) for i in range(3)}
    torch.save({"D": discriminator, key: net.state_dict()} | state, tmp_path / "m.pt",
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    loaded = load_model(tmp_path / "m.pt")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    "bomb",
    [
        nested(60) + b"Q.",  # printed in an error
        nested(60) + b")R.",
        b"}" + tuples(60) + b"K\1s.",  # looked up as a key
        b"(" + tuples(60) + b"Q.",
        nested(40, end=b"X" + struct.pack("<I", 10_000) + b"x" * 10_000),
        b"]" * 2_000_000 + b".",
    ],
)
def test_a_small_pickle_that_unfolds_without_end_is_refused_in_no_time(bomb: bytes, tmp_path: Path) -> None:
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))  # of an old .pth
    (tmp_path / "m.pth").write_bytes(head + b"\x80\2" + bomb)
    start = time.monotonic()
    with pytest.raises(EsrganError, match=r"m\.pth") as error:
        load_model(tmp_path / "m.pth")
    assert len(str(error.value)) < 1000
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("function", [torch.storage.UntypedStorage, bytearray, os.system, eval, torch.load])
def test_calls_that_weights_do_not_need_are_refused_by_name(function: Any) -> None:
    content = pickle.dumps({"a": [Calls(function, 2**35)]}, 2)
    with pytest.raises(EsrganError, match=f"asks for .*{function.__name__}"):
        look_through(io.BytesIO(content), Path("m.pth"))


@pytest.mark.parametrize("protocol", range(6))
def test_what_python_itself_writes_is_followed_to_its_end(protocol: int) -> None:
    shared = {"betas": (0.9, 0.999), "names": ["a", "b"]}
    content = pickle.dumps({"x": [shared, shared], 1: {2.5: None}, "empty": [(), [], {}], "text": "y" * 300}, protocol)
    file = io.BytesIO(content + b"rest")
    look_through(file, Path("m.pth"))
    assert file.read() == b"rest"
