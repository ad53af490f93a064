"""A generator that begins with another's weights."""

from dataclasses import replace

import pytest
import torch

from esrgan.config import GeneratorConfig
from esrgan.errors import EsrganError
from esrgan.generator import Generator, calm
from esrgan.model_file import save_model
from esrgan.transplant import transplant

SMALL = GeneratorConfig(channels=4, growth=3, blocks=1)
WIDER = replace(SMALL, channels=7, growth=5)


def begun(tmp_path, given, config, start="paper"):
    """A generator of ``config`` with the weights of ``given``."""
    save_model(given, tmp_path / "given.safetensors")
    generator = Generator(config, start=start)
    transplant(tmp_path / "given.safetensors", generator)
    return generator


@pytest.mark.parametrize(
    "change",
    [{}, {"plus": True}, {"scale": 8}, {"scale": 3}, {"unshuffle": 2, "scale": 2}, {"variant": "subpixel"}],
    ids=str,
)
def test_a_wider_network_begins_as_the_same_function_and_all_of_it_learns(tmp_path, change):
    given = Generator(replace(SMALL, **change), start="paper")
    wider = begun(tmp_path, given, replace(WIDER, **change))
    x = torch.rand(2, 3, 12, 14)
    torch.testing.assert_close(wider(x), given(x), rtol=1e-5, atol=1e-6)
    optimizer = torch.optim.SGD(wider.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (wider(x) - 0.5).square().mean().backward()
        optimizer.step()
    for name, weight in wider.named_parameters():
        assert (weight.grad != 0).float().mean() > 0.9, name


@pytest.mark.parametrize("start", ["paper", "identity"])
@pytest.mark.parametrize("change", [{}, {"plus": True}], ids=str)
def test_a_deeper_network_begins_nearly_as_the_same_function_and_all_of_it_learns(tmp_path, change, start):
    given = Generator(replace(SMALL, **change), start="paper")
    deeper = begun(tmp_path, given, replace(WIDER, blocks=23, **change), start)
    x = torch.rand(2, 3, 12, 14)
    out = deeper(x)
    assert (out - given(x)).std() < 0.05 * given(x).std()  # as it was before blocks were calmed: above 2
    out.square().mean().backward()
    of_given, of_new = (deeper.body[i].rdb2.conv5.weight.grad.norm() for i in (0, 12))
    assert of_new > 0.01 * of_given  # calmed twice: 1e-5


def test_calming_a_block_twice_is_calming_it_once():
    block = Generator(SMALL, start="paper").body[0]
    factor = calm(block)
    once = {name: weight.clone() for name, weight in block.state_dict().items()}
    assert calm(block) == factor
    assert all(torch.equal(weight, once[name]) for name, weight in block.state_dict().items())


@pytest.mark.parametrize("change", [{"growth": 2}, {"channels": 3}, {"plus": True}], ids=str)
def test_a_network_with_no_room_for_it_is_refused(tmp_path, change):
    with pytest.raises(EsrganError, match=r"\(channels 4, growth 3\) does not fit into this run's network"):
        begun(tmp_path, Generator(SMALL), replace(SMALL, **change))


def test_another_scale_keeps_the_trunk(tmp_path):
    given = Generator(SMALL)
    generator = begun(tmp_path, given, replace(WIDER, scale=3))
    assert torch.equal(generator.conv_body.weight[:4, :4], given.conv_body.weight)
    assert torch.equal(generator.conv_last.weight[:, :4], given.conv_last.weight)


def test_layers_that_read_or_make_something_else_stay_as_they_were(tmp_path):
    given = Generator(replace(SMALL, blocks=4))
    generator = begun(tmp_path, given, replace(WIDER, blocks=4, scale=2, unshuffle=2))
    assert (generator.conv_first.weight[:4] != 0).all()  # reads twelve numbers of each four pixels
    generator = begun(tmp_path, given, replace(WIDER, blocks=4, variant="subpixel"))
    assert (generator.conv_up1.weight != 0).all()  # makes four channels of each
    assert torch.equal(generator.conv_body.weight[:4, :4], given.conv_body.weight)


@pytest.mark.parametrize("start", ["paper", "identity"])
def test_features_are_as_large_after_the_blocks_that_a_deeper_network_adds(tmp_path, start):
    torch.manual_seed(0)
    given = Generator(SMALL, start="paper")
    deeper = begun(tmp_path, given, replace(SMALL, blocks=23), start)
    features = torch.randn(2, 4, 12, 14)
    short, long = (net.conv_body(net.body(features)) for net in (given, deeper))
    assert (long - short).std() < 0.1 * short.std()
