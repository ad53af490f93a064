import pytest
import torch

from esrgan.config import GeneratorConfig
from esrgan.errors import EsrganError, UsageError
from esrgan.generator import Generator
from esrgan.interpolate import blend, blend_provenance, interpolate, strangers
from esrgan.library import find_model
from esrgan.model_file import load_model, read_header, save_model

TINY = {"channels": 8, "growth": 4, "blocks": 1}


def tiny(**changes):
    return Generator(GeneratorConfig(**(TINY | changes)), start="paper")


def test_alpha_0_is_the_first_network_and_1_the_second():
    a, b = tiny(), tiny()
    for alpha, wanted in ((0, a), (1, b)):
        found = interpolate(a, b, alpha).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.state_dict().items())


def test_every_weight_lies_between_by_alpha():
    a, b = tiny(), tiny()
    found = interpolate(a, b, 0.8).state_dict()
    for name, tensor in a.state_dict().items():
        torch.testing.assert_close(found[name], 0.2 * tensor + 0.8 * b.state_dict()[name])


def test_the_sources_are_left_as_they_were():
    a, b = tiny(), tiny()
    before = {name: tensor.clone() for name, tensor in a.state_dict().items()}
    result = interpolate(a, b, 0.5)
    with torch.no_grad():
        result.conv_first.weight.zero_()
    assert all(torch.equal(a.state_dict()[name], tensor) for name, tensor in before.items())


def test_several_networks_blend_by_weights_of_any_sum():
    models = [tiny() for _ in range(3)]
    found = blend(models, (1, 1, 2)).state_dict()["conv_first.weight"]
    wanted = sum(w * m.conv_first.weight.detach() for w, m in zip((0.25, 0.25, 0.5), models, strict=True))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_0_to_1_is_refused(alpha):
    with pytest.raises(EsrganError, match="alpha"):
        interpolate(tiny(), tiny(), alpha)


@pytest.mark.parametrize("weights", [(0, 0), (-1, 2), (1,), (float("nan"), 1)])
def test_weights_without_a_mean_are_refused(weights):
    with pytest.raises(EsrganError, match="weights"):
        blend((tiny(), tiny()), weights)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scale": 2}, "scale is 4 in one and 2 in the other"),
        ({"blocks": 2}, "blocks is 1 in one and 2 in the other"),
        ({"variant": "subpixel", "growth": 8}, "variant is classic.*growth is 4"),
    ],
)
def test_networks_of_another_shape_are_refused_by_the_difference(change, named):
    with pytest.raises(EsrganError, match=named):
        interpolate(tiny(), tiny(**change), 0.5)


def test_the_file_of_a_blend_tells_its_sources(tmp_path):
    about = blend_provenance(
        ("psnr", "gan"), ({"stage": "psnr", "licence": "CC0"}, {"stage": "gan", "licence": "CC BY"}), (0.2, 0.8)
    )
    save_model(interpolate(tiny(), tiny(), 0.8), tmp_path / "blend.safetensors", provenance=about)
    found = read_header(tmp_path / "blend.safetensors").provenance
    assert found["alpha"] == 0.8
    assert [model["name"] for model in found["models"]] == ["psnr", "gan"]
    assert found["models"][1]["provenance"]["stage"] == "gan"
    assert found["licence"] == "CC0 AND CC BY"
    assert load_model(tmp_path / "blend.safetensors").scale == 4


def test_a_blend_of_three_has_the_licences_of_all_or_none():
    sources = [{"licence": licence} for licence in ("MIT", "CC0-1.0", "MIT")]
    assert blend_provenance("abc", sources, (1, 1, 2))["licence"] == "MIT AND CC0-1.0"
    assert "licence" not in blend_provenance("abc", [*sources[:2], {}], (1, 1, 2))


def test_what_is_no_network_is_no_part_of_a_blend():
    with pytest.raises(UsageError, match=r"'a' is no Generator, which esrgan\.load_model gives"):
        blend(["a", "b"], [0.5, 0.5])


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_shipped_pairs_are_kin(scale):
    pair = [load_model(find_model(f"lite_x{scale}_{kind}")) for kind in ("psnr", "gan")]
    assert strangers(pair) is None


def test_the_model_that_is_no_kin_is_named():
    a, b = (Generator(GeneratorConfig(channels=16, growth=8, blocks=1)) for _ in "ab")
    assert strangers([a, a, b]).startswith("model 3 ")
