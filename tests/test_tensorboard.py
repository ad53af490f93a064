from dataclasses import replace

import pytest
import tiny

from esrgan.errors import EsrganError
from esrgan.stages import pretrain


def test_without_tensorboard_the_extra_is_named_before_pictures_are_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("esrgan.tensorboard.find_spec", lambda _: None)
    with pytest.raises(EsrganError, match=r"pip install '.\[tensorboard\]'"):
        pretrain(tiny.stage_1(tmp_path, tensorboard=True))
    assert capsys.readouterr().out == ""


def test_what_tensorboard_reads_is_whole_after_resuming(tmp_path):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tiny.stage_1(tmp_path, tensorboard=True)
    config = replace(config, val=config.images)
    for steps in (12, 18):
        pretrain(replace(config, steps=steps))
    events = module.EventAccumulator(str(config.run_dir / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Scalars("losses/pixel")] == [4, 8, 12, 16, 18]
    assert [event.step for event in events.Scalars("validation/psnr_y")] == [6, 12, 18]
    assert [event.step for event in events.Images("bicubic, SR, HR")] == [6, 12, 18]
