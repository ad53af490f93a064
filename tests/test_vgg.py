from pathlib import Path

import pytest
import torch

from esrgan.errors import EsrganError
from esrgan.vgg import VGGFeatures

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights" / "vgg19_features.safetensors"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the VGG19 weights are not at hand")


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A file with random weights of the first four convolutions, under torchvision's names."""
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128)}
    state = {f"features.{i}.weight": torch.randn(*shape, 3, 3) * 0.05 for i, shape in shapes.items()}
    state |= {f"features.{i}.bias": torch.randn(shape[0]) for i, shape in shapes.items()}
    torch.save(state | {"classifier.0.bias": torch.zeros(4)}, path)
    return path


def test_only_the_layers_up_to_the_deepest_one_are_built(early):
    net = VGGFeatures(early, layers=("conv2_1", "conv1_2"))
    assert {name for name, _ in net.named_parameters()} == {
        f"features.{i}.{kind}" for i in (0, 2, 5) for kind in ("weight", "bias")
    }
    assert set(net(torch.rand(1, 3, 16, 16))) == {"conv1_2", "conv2_1"}


def test_features_are_those_before_the_activation(early):
    features = VGGFeatures(early, layers=["conv1_1", "conv1_2"])(torch.rand(1, 3, 16, 16))
    assert features["conv1_1"].shape == (1, 64, 16, 16)
    for values in features.values():
        assert (values < 0).any()


def test_the_image_is_normalised_as_imagenet_was(early):
    state = torch.load(early, weights_only=True)
    image = torch.rand(2, 3, 8, 8)
    normalised = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    wanted = torch.conv2d(normalised, state["features.0.weight"], state["features.0.bias"], padding=1)
    torch.testing.assert_close(VGGFeatures(early, layers=["conv1_1"])(image)["conv1_1"], wanted)


def test_gradient_reaches_the_image_and_no_weight(early):
    net, image = VGGFeatures(early, layers=["conv2_2"]), torch.rand(1, 3, 16, 16, requires_grad=True)
    net(image)["conv2_2"].sum().backward()
    assert image.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in net.parameters())


def test_autocast_and_channels_last_give_nearly_the_same(early):
    net, image = VGGFeatures(early, layers=["conv2_2"]), torch.rand(1, 3, 16, 16)
    wanted = net(image)["conv2_2"]
    net = net.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(image.contiguous(memory_format=torch.channels_last))["conv2_2"]
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).abs().mean() < 0.02 * wanted.abs().mean()


def test_an_unknown_layer_is_named(early):
    with pytest.raises(EsrganError, match="conv9_1"):
        VGGFeatures(early, layers=["conv9_1"])


def test_the_file_of_another_network_is_refused(early):
    with pytest.raises(EsrganError, match=r"vgg19\.pth has no features\.\d+\.\w+ of shape"):
        VGGFeatures(early, layers=["conv5_4"])


@needs_weights
def test_the_real_weights_give_features_of_the_magnitude_that_a_loss_weight_of_one_expects():
    features = VGGFeatures(WEIGHTS)(torch.rand(1, 3, 64, 48))
    assert features["conv5_4"].shape == (1, 512, 4, 3)
    assert 0.1 < features["conv5_4"].abs().mean() < 10
