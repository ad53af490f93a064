import json
import math
import signal
import threading
import time
from dataclasses import replace
from itertools import count

import pytest
import tiny
import torch
from safetensors.torch import load_file

from esrgan.config import OptimConfig, PretrainOptim, TrainOptim
from esrgan.data import Patches
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.metrics import psnr_y
from esrgan.model_file import load_model, save_model
from esrgan.objectives import psnr_objective
from esrgan.pairs import each_pair
from esrgan.players import Player
from esrgan.run_dir import RunDir
from esrgan.stages import photo_store, pretrain, train
from esrgan.steps import train_steps
from esrgan.team import build_team
from esrgan.training import fit
from esrgan.training_setup import Scores, Setup
from esrgan.validation import Validation


def player(**options):
    torch.manual_seed(0)
    return Player(Generator(tiny.SHAPE), OptimConfig(**options), steps=10, dtype=torch.float32)


def batches(steps, size, poison=()):
    random = torch.Generator().manual_seed(1)
    for step in range(1, steps + 1):
        lr, hr = torch.rand(size, 3, 8, 8, generator=random), torch.rand(size, 3, 32, 32, generator=random)
        yield step, lr.fill_(float("nan")) if step in poison else lr, hr


def trained(steps=3, *, poison=(), accumulate=1, size=16):
    p = player()
    taken = list(train_steps(psnr_objective(p), [p], batches(steps, size, poison), accumulate=accumulate))
    return p, taken


def test_2_x_8_is_1_x_16_to_rounding():
    (one, steps), (two, halves) = trained(), trained(accumulate=2)
    for a, b in zip(one.parameters, two.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)
    for a, b in zip(steps, halves, strict=True):
        torch.testing.assert_close(a.losses, b.losses)


def test_logged_losses_are_means_whatever_is_accumulated():
    losses = [step.losses["pixel"].item() for step in trained(accumulate=4)[1]]
    assert losses == pytest.approx([step.losses["pixel"].item() for step in trained()[1]], rel=1e-4)


def test_a_poisoned_batch_changes_nothing_and_is_told():
    (clean, _), (p, steps) = trained(1, size=4), trained(3, size=4, poison=(2, 3))
    assert [bool(step.finite) for step in steps] == [True, False, False]
    assert all(map(torch.equal, clean.parameters, p.parameters))


class Poisoned:
    """Patches of which those of some steps are not numbers, the first ``times`` times they are asked for."""

    def __init__(self, patches, steps, times=10**6):
        self.patches, self.steps, self.times, self.store = patches, steps, times, patches.store

    def batches(self, first, last, count, device, rows=None):
        for step, lr, hr in self.patches.batches(first, last, count, device, rows):
            bad = step in self.steps and self.times > 0
            self.times -= bad
            yield step, lr * float("nan") if bad else lr, hr


def run_with(config, steps, times=10**6):
    """Train with poisoned patches; gives the log."""
    with RunDir.opened(config) as run:
        team = build_team(config)
        patches = Poisoned(Patches(photo_store(config, 4), patch=32, seed=0), steps, times)
        setup = Setup(players=team.players, ema=team.ema, objective=team.objective, patches=patches,
                    validate=None, save_models=lambda *_: None)  # fmt: skip
        try:
            fit(config, run, setup)
        finally:
            rows = run.rows()
    return rows


def test_skipped_steps_are_counted_and_leave_finite_means(tmp_path):
    rows = run_with(tiny.stage_1(tmp_path), {2, 3, 7})
    assert [row.get("skipped") for row in rows if "losses" in row] == [2, 3, 3]
    assert all(0 < row["losses"]["pixel"] < 1 for row in rows)


def test_several_in_a_row_go_back_with_a_smaller_learning_rate(tmp_path):
    rows = run_with(tiny.stage_1(tmp_path, steps=20), set(range(6, 11)), times=5)
    note = next(row for row in rows if "note" in row)
    assert "back to step 5" in note["note"]
    assert "1 of 3" in note["note"]
    assert [row["step"] for row in rows] == [4, 5, 8, 12, 16, 20]
    assert [row["learning_rate"] for row in rows if "losses" in row] == [1e-3, *[5e-4] * 4]


def test_a_network_whose_pictures_are_not_finite_goes_back_too(tmp_path):
    config = tiny.stage_1(tmp_path, steps=6, validate_every=3, save_every=2)
    values = iter([math.nan, 1.0, 2.0])
    with RunDir.opened(config) as run:
        team = build_team(config)
        setup = Setup(players=team.players, ema=team.ema, objective=team.objective,
                    patches=Patches(photo_store(config, 4), patch=32, seed=0), save_models=lambda *_: None,
                    validate=lambda *_: Scores({"psnr_y": 20.0}, next(values)))  # fmt: skip
        fit(config, run, setup)
        notes = [row["note"] for row in run.rows() if "note" in row]
    assert notes == [
        "the pictures of step 3 are not finite; back to step 2 with the learning rate halved (return 1 of 3)"
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_network_is_not_scored(tmp_path, bad):
    config = tiny.stage_1(tmp_path, val=(tiny.pictures(tmp_path / "val", 1),))
    net = Generator(tiny.SHAPE)
    with RunDir.opened(config) as run:
        scored = Validation(
            run.samples, net, each_pair(tmp_path / "val", 4), dtype=torch.float32, lpips=None, choose=len
        )
        net.conv_last.bias.data.fill_(bad)
        assert math.isnan(scored(1, lambda: False).value)


def test_a_stop_in_the_last_validation_ends_as_an_unbroken_run(tmp_path):
    config = tiny.stage_1(tmp_path, steps=6, val=(tiny.pictures(tmp_path / "val", 1),))
    pretrain(replace(config, run_dir=tmp_path / "unbroken"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    pretrain(config)
    assert (config.run_dir / "state.pt").read_bytes() == (tmp_path / "unbroken" / "state.pt").read_bytes()
    before = (config.run_dir / "log.jsonl").read_bytes()
    pretrain(config)
    assert (config.run_dir / "log.jsonl").read_bytes() == before


def interrupted(validation, step, stopped):
    signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)
    assert stopped()


def test_trouble_that_does_not_end_stops_clearly(tmp_path):
    with pytest.raises(EsrganError, match="diverges"):
        run_with(tiny.stage_1(tmp_path, steps=20), set(range(6, 21)))
    assert "diverges" in (tmp_path / "run" / "log.txt").read_text().splitlines()[-1]


def test_a_run_does_not_go_on_with_other_pictures(tmp_path):
    pretrain(tiny.stage_1(tmp_path, steps=4))
    tiny.pictures(tmp_path / "photos", 2, seed=5)
    with pytest.raises(EsrganError, match="other pictures"):
        pretrain(tiny.stage_1(tmp_path, steps=8))


def test_a_run_does_not_go_on_with_other_pictures_to_be_validated_on(tmp_path):
    val = tiny.pictures(tmp_path / "val", 1)
    pretrain(tiny.stage_1(tmp_path, steps=4, val=(val,)))
    tiny.pictures(val, 1, seed=5)
    with pytest.raises(EsrganError, match="other pictures to be validated on than those now in --val"):
        pretrain(tiny.stage_1(tmp_path, steps=8, val=(val,)))


def test_a_run_does_not_go_on_from_another_model_of_the_same_name(tmp_path):
    model = tmp_path / "first.safetensors"
    save_model(Generator(tiny.SHAPE, start="paper"), model)
    pretrain(tiny.stage_1(tmp_path, steps=4, init=model))
    save_model(Generator(tiny.SHAPE, start="paper"), model)
    with pytest.raises(EsrganError, match="another model to begin from"):
        pretrain(tiny.stage_1(tmp_path, steps=8, init=model))


def test_the_best_model_is_chosen_anew_when_another_score_chooses_it(tmp_path):
    kept = []

    def run(steps, score, value):
        config = tiny.stage_1(tmp_path, steps=steps, validate_every=steps)
        with RunDir.opened(config) as run:
            team = build_team(config)
            setup = Setup(players=team.players, ema=team.ema, objective=team.objective, score=score,
                        patches=Patches(photo_store(config, 4), patch=32, seed=0),
                        validate=lambda *_: Scores({score: abs(value)}, value),
                        save_models=lambda step, best: kept.append(step) if best else None)  # fmt: skip
            fit(config, run, setup)

    run(2, "psnr_y", 28.0)
    run(4, "psnr_y", 27.0)
    run(6, "lpips", -0.2)
    run(8, "lpips", -0.3)
    assert kept == [2, 6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_and_the_same_command_ends_as_if_unbroken(tmp_path, number):
    whole = tiny.stage_1(tmp_path, steps=40, save_every=1000, run_dir=tmp_path / "whole")
    pretrain(whole)
    broken = tiny.stage_1(tmp_path, steps=40, save_every=1000)
    threading.Thread(target=stop_after, args=(broken.run_dir / "log.jsonl", number), daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        pretrain(broken)
    rows = [json.loads(line) for line in (broken.run_dir / "log.jsonl").read_text().splitlines()]
    assert "stopped by" in rows[-1]["note"]
    assert rows[-1]["step"] < 40
    pretrain(broken)
    for name in ("state.pt",):
        assert (whole.run_dir / name).read_bytes() == (broken.run_dir / name).read_bytes()
    one, other = (load_file(config.run_dir / "latest.safetensors") for config in (whole, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)


def stop_after(log, number):
    for _ in count():
        if log.is_file() and "losses" in log.read_text():
            signal.getsignal(number)(number, None)  # not sent: see test_stopping
            return
        time.sleep(0.001)


def test_muon_and_clipping_train_in_both_stages(tmp_path):
    one = tiny.stage_1(tmp_path, steps=2, optim=PretrainOptim(algorithm="muon", clip=1.0))
    two = tiny.stage_2(tmp_path, steps=2, optim=TrainOptim(algorithm="muon", clip=1.0))
    for config, run in ((one, pretrain), (two, train)):
        begun = build_team(config).players["generator"].net.state_dict()
        ended = load_model(run(config)).state_dict()
        moved = {name for name, weight in begun.items() if not torch.equal(weight, ended[name])}
        assert {"body.0.rdb1.conv1.weight", "conv_first.weight"} <= moved


def test_a_step_whose_loss_is_finite_but_not_its_gradient_changes_nothing_and_is_told():
    p, before = player(), list(player().parameters)

    def of_roots(lr, hr):  # whose slope at 0 is infinite
        yield {"pixel": ((p(lr) - hr) * 0).abs().sqrt().mean()}

    (step,) = train_steps(of_roots, [p], batches(1, 2))
    assert step.losses["pixel"] == 0
    assert not step.finite
    assert all(map(torch.equal, p.parameters, before))


def test_a_state_amid_trouble_is_not_one_to_go_back_to(tmp_path):
    rows = run_with(tiny.stage_1(tmp_path, steps=20), set(range(9, 16)), times=7)
    assert "back to step 5" in next(row["note"] for row in rows if "note" in row)


def test_validation_leaves_out_a_border_of_the_scale_as_the_benchmark_does(tmp_path):
    net, (pair,) = Generator(tiny.SHAPE), each_pair(tiny.pictures(tmp_path / "val", 1), 4)
    scored = Validation(tmp_path, net, [pair], dtype=torch.float32, lpips=None, choose=lambda scores: scores["psnr_y"])
    with torch.no_grad():
        wanted = psnr_y(net(pair.lr[None]), pair.hr[None], border=4).item()
    assert scored(1, lambda: False).value == pytest.approx(wanted, abs=1e-3)


def test_the_best_score_outlives_a_return_to_a_state_from_before_it(tmp_path):
    config = tiny.stage_1(tmp_path, steps=12, validate_every=4, save_every=6)
    values = iter([10.0, 30.0, math.nan, 20.0, 20.0])  # of steps 4, 8 and 12, then, from step 6 on, of 8 and 12 again
    kept = []
    with RunDir.opened(config) as run:
        team = build_team(config)
        setup = Setup(players=team.players, ema=team.ema, objective=team.objective,
                    patches=Patches(photo_store(config, 4), patch=32, seed=0),
                    save_models=lambda step, best: kept.append(step) if best else None,
                    validate=lambda *_: Scores({"psnr_y": 20.0}, next(values)))  # fmt: skip
        fit(config, run, setup)
    assert kept == [4, 8]
