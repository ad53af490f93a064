import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from esrgan.compiled import AT_ONCE, compile_to_train
from esrgan.config import GeneratorConfig
from esrgan.convolutions import activate, conv_enlarged, evenly_rounded, transposed_kernel
from esrgan.errors import EsrganError
from esrgan.generator import RRDB, Generator, ResidualDenseBlock


def tiny(start="identity", **changes):
    return Generator(GeneratorConfig(**({"channels": 8, "growth": 4, "blocks": 1} | changes)), start=start)


@pytest.mark.parametrize(("variant", "count"), [("classic", 16_697_987), ("subpixel", 16_910_277)])
def test_the_default_network_has_the_published_number_of_parameters(variant, count):
    with torch.device("meta"):
        net = Generator(GeneratorConfig(variant=variant), start="paper")
    assert sum(p.numel() for p in net.parameters()) == count


def test_classic_parameters_have_basicsrs_names():
    names = set(tiny().state_dict())
    layers = ["conv_first", "body.0.rdb1.conv1", "body.0.rdb3.conv5", "conv_body", "conv_up1", "conv_up2", "conv_hr",
              "conv_last"]  # fmt: skip
    assert {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")} <= names
    assert len(names) == 2 * (3 * 5 + 6)


@pytest.mark.parametrize(
    ("variant", "scale"), [("classic", s) for s in (1, 2, 3, 4, 8)] + [("subpixel", s) for s in (2, 4, 8)]
)
@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_every_scale_enlarges_any_size(variant, scale, size):
    net = tiny(variant=variant, scale=scale)
    assert net.scale == scale
    assert net(torch.rand(2, 3, *size)).shape == (2, 3, scale * size[0], scale * size[1])


def test_residuals_are_scaled_at_both_levels():
    x = torch.rand(1, 4, 6, 6)
    block = ResidualDenseBlock(4, 2)
    with torch.no_grad():
        for layer in block.children():
            layer.weight.zero_()
            layer.bias.zero_()
        block.conv5.bias.fill_(1)
        torch.testing.assert_close(block(x), x + 0.2)
        rrdb = RRDB(4, 2)
        rrdb.rdb1 = rrdb.rdb2 = rrdb.rdb3 = block
        torch.testing.assert_close(rrdb(x), x + 0.2 * (x + 0.6))


@pytest.mark.parametrize(("scale", "blocks"), [(2, 1), (3, 1), (4, 1), (8, 1), (4, 23)])
def test_the_identity_start_is_a_smooth_enlargement(scale, blocks):
    torch.manual_seed(0)
    small = torch.rand(1, 3, 3, 3)
    lr = F.interpolate(small, size=(12, 12), mode="bicubic", align_corners=False).clamp(0, 1)
    hr = F.interpolate(lr, scale_factor=scale, mode="bilinear", align_corners=False)
    with torch.no_grad():
        sr = tiny(channels=32, growth=16, blocks=blocks, scale=scale)(lr)
    inner = slice(2 * scale, -2 * scale)
    assert (sr - hr)[..., inner, inner].abs().mean() < 0.05


@pytest.mark.parametrize("compiled", [False, True])
def test_the_sums_by_source_are_those_of_the_dense_block(compiled):
    torch.manual_seed(0)
    block, x = ResidualDenseBlock(8, 4), torch.rand(2, 8, 9, 11)
    run = torch.compile(block.by_source, backend="aot_eager") if compiled else block.by_source
    results = []
    for way in (block, run):
        block.zero_grad()
        out = way(x)
        out.square().sum().backward()
        results.append((out.detach(), [w.grad.clone() for w in block.parameters()]))
    torch.testing.assert_close(results[0], results[1])


def test_blocks_are_compiled_for_training_on_cuda_alone():
    assert not compile_to_train(Generator(GeneratorConfig(blocks=1, channels=4, growth=2)))


@pytest.mark.parametrize("fails", ["forward", "backward"])
def test_where_compiling_fails_a_training_goes_on_without_it(monkeypatch, fails):
    def compiler(of):
        def compiled(graph, _):
            if of == fails:
                raise RuntimeError("no kernel of it")
            return make_boxed_func(graph.forward)

        return compiled

    backend = aot_autograd(fw_compiler=compiler("forward"), bw_compiler=compiler("backward"))
    monkeypatch.setattr("esrgan.compiled.can_compile", lambda _: True)
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))
    torch.compiler.reset()
    net = tiny()
    wanted, x = copy.deepcopy(net), torch.rand(1, 3, 8, 8)
    with torch._dynamo.config.patch(suppress_errors=False), torch._functorch.config.patch({AT_ONCE: False}):
        assert compile_to_train(net)
        for network in (net, wanted):
            network(x).square().mean().backward()
    assert torch.equal(net.conv_first.weight.grad, wanted.conv_first.weight.grad)


def test_the_papers_start_is_small_and_without_bias():
    net = tiny("paper", channels=64, growth=32)
    conv = net.body[0].rdb1.conv1
    fan_in = conv.weight[0].numel()
    assert conv.weight.std().item() == pytest.approx(0.1 * (2 / fan_in) ** 0.5, rel=0.05)
    assert conv.bias.abs().max() == 0


def test_the_subpixel_network_stays_between_black_and_white():
    net = tiny(variant="subpixel")
    with torch.no_grad():
        net.conv_last.weight.mul_(1e4)
        sr = net(torch.rand(1, 3, 8, 8))
    assert sr.min() >= 0
    assert sr.max() <= 1


def test_the_identity_start_needs_three_channels():
    with pytest.raises(EsrganError, match="at least 3 channels"):
        tiny(channels=2)
    tiny("paper", channels=2)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"scale": 5}, "5"),
        ({"scale": 4.0}, "generator.scale is 4.0"),
        ({"plus": 0}, "generator.plus is 0"),
        ({"variant": "modern"}, "modern"),
        ({"blocks": 0}, "blocks is 0"),
    ],
)
def test_a_shape_that_does_not_exist_is_refused_with_its_value(bad, named):
    with pytest.raises(EsrganError, match=named):
        GeneratorConfig(**bad)


@pytest.mark.parametrize("factor", [2, 3])
def test_enlargement_and_convolution_in_one_have_the_same_outputs_and_gradients(factor):
    torch.manual_seed(0)
    layer, x = nn.Conv2d(5, 4, 3, padding=1), torch.randn(2, 5, 7, 6, requires_grad=True)
    ways = {
        "in one": lambda: conv_enlarged(layer, x, factor),
        "one by one": lambda: activate(layer(F.interpolate(x, scale_factor=factor, mode="nearest"))),
    }
    results = []
    for way in ways.values():
        out = way()
        loss = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
        results.append((out, *torch.autograd.grad(loss, (x, layer.weight, layer.bias))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_an_enlarging_convolution_with_other_borders_keeps_them():
    layer, x = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), torch.rand(1, 3, 5, 5)
    plain = activate(layer(F.interpolate(x, scale_factor=2, mode="nearest")))
    assert torch.equal(conv_enlarged(layer, x, 2), plain)


def test_the_kernel_of_the_transposed_convolution_is_summed_in_fp32_also_under_autocast():
    weight = torch.randn(4, 5, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transposed_kernel(weight, 2), transposed_kernel(weight.double(), 2))


@pytest.mark.parametrize("factor", [2, 3])
def test_a_kernel_rounded_to_bf16_makes_no_grid_of_flat_areas(factor):
    torch.manual_seed(0)
    kernel = transposed_kernel(torch.randn(6, 5, 3, 3), factor)
    even, plain = evenly_rounded(kernel, factor), kernel.bfloat16().float()
    assert torch.equal(even, even.bfloat16().float())
    assert (even - kernel).abs().max() < 0.05

    def unevenness(kernel):
        flat = F.conv_transpose2d(torch.ones(1, 5, 9, 9), kernel, stride=factor, padding=1)[0, :, 6:12, 6:12]
        return (flat - flat[:, :1, :1]).abs().max()

    assert unevenness(even) < unevenness(plain) / 4


@pytest.mark.parametrize(
    "shape", [{"scale": 4}, {"scale": 3}, {"scale": 2, "unshuffle": 2}, {"scale": 1, "unshuffle": 4}], ids=str
)
def test_the_identity_start_keeps_colours(shape):
    torch.manual_seed(0)
    colours = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1)
    with torch.no_grad():
        sr = tiny(**shape)(colours.expand(1, 3, 24, 24))
    inner = slice(8 * shape["scale"], -8 * shape["scale"])
    assert (sr - colours)[..., inner, inner].abs().max() < 0.1


def test_the_subpixel_network_makes_grey_of_grey():
    assert (tiny(variant="subpixel")(torch.full((1, 3, 8, 8), 0.5)) == 0.5).all()


@pytest.mark.parametrize("blocks", [4, 23])
def test_what_the_body_adds_at_the_identity_start_is_as_small_in_deep_networks(blocks):
    torch.manual_seed(0)
    features = torch.randn(2, 64, 24, 24)
    one, deep = (tiny(channels=64, blocks=number) for number in (1, blocks))
    added = [net.conv_body(net.body(features)).std().item() for net in (one, deep)]
    assert added[1] == pytest.approx(added[0], rel=0.1)
