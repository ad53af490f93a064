import pytest
import torch
from torch import nn

from esrgan.discriminator import Discriminator


@pytest.mark.parametrize(("batch_norm", "count"), [(True, 23_565_633), (False, 23_561_793)])
def test_it_has_the_parameters_of_the_seed(batch_norm, count):
    with torch.device("meta"):
        net = Discriminator(batch_norm=batch_norm)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("size", [(128, 128), (96, 96), (33, 70), (8, 8)])
def test_patches_of_any_size_give_one_logit_each(size):
    assert Discriminator(4)(torch.rand(2, 3, *size)).shape == (2, 1)


def test_without_batch_norm_a_picture_is_judged_by_itself():
    net, images = Discriminator(4), torch.rand(3, 3, 48, 48)
    together = net(images)
    alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_it_is_srgans_network_with_pooling_before_its_linear_layers(batch_norm):
    net = Discriminator(4, batch_norm)
    convolutions = [layer for layer in net.features if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [4, 4, 8, 8, 16, 16, 32, 32]
    assert [layer.stride[0] for layer in convolutions] == [1, 2] * 4
    layers = []
    for layer in convolutions:
        layers += [layer, *([nn.BatchNorm2d(layer.out_channels)] if batch_norm else []), nn.LeakyReLU(0.2)]
    wanted = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(6), nn.Flatten(), net.hidden, nn.LeakyReLU(0.2), net.logit
    )  # fmt: skip
    image = torch.rand(2, 3, 48, 40)
    torch.testing.assert_close(net(image), wanted(image))
