import pytest
import torch

from esrgan.devices import bf16_is_fast, pick_device, pick_precision
from esrgan.errors import EsrganError

CPU = torch.device("cpu")


def test_auto_is_a_device_that_works():
    assert torch.ones(1, device=pick_device("auto")).item() == 1
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "hpu", "privateuseone"])
def test_a_device_that_is_not_here_is_named_with_a_way_out(name):
    with pytest.raises(EsrganError, match=f"'{name}'.*--device auto or cpu"):
        pick_device(name)


def test_a_precision_that_was_asked_for_is_taken():
    assert pick_precision("fp32", CPU) == torch.float32
    assert pick_precision("bf16", CPU, training=True) == torch.bfloat16
    assert pick_precision("fp16", CPU) == torch.float16


def test_auto_takes_bf16_on_a_cpu_only_where_it_is_fast():
    assert pick_precision("auto", CPU) == (torch.bfloat16 if bf16_is_fast() else torch.float32)


@pytest.mark.parametrize(
    ("instructions", "seconds", "fast"), [(True, 0.5, True), (True, 30, False), (False, 0.5, False)]
)
def test_bf16_is_fast_where_its_instructions_are_and_a_trial_confirms_it(monkeypatch, instructions, seconds, fast):
    monkeypatch.setattr("esrgan.devices._has", lambda _: instructions)
    monkeypatch.setattr("esrgan.devices._conv_seconds", lambda dtype: seconds if dtype == torch.bfloat16 else 1)
    assert bf16_is_fast.__wrapped__() == fast


def test_one_trial_on_a_busy_machine_does_not_mislead(monkeypatch):
    seconds = iter([30, 1, 0.5, 1])
    monkeypatch.setattr("esrgan.devices._has", lambda _: True)
    monkeypatch.setattr("esrgan.devices._conv_seconds", lambda _: next(seconds))
    assert bf16_is_fast.__wrapped__()


@pytest.mark.parametrize(("capability", "training"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_cuda_trains_in_bf16_where_it_has_it_and_enlarges_in_fp16(monkeypatch, capability, training):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
    assert pick_precision("auto", torch.device("cuda"), training=True) == training
    assert pick_precision("auto", torch.device("cuda")) == torch.float16


def test_training_in_fp16_and_unknown_precisions_are_refused():
    with pytest.raises(EsrganError, match="overflows"):
        pick_precision("fp16", CPU, training=True)
    with pytest.raises(EsrganError, match="'fp8'"):
        pick_precision("fp8", CPU)
