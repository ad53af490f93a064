import pytest
import torch

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
