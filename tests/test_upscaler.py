import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import photo, rgb_profile, waves
from torch import nn

from esrgan.config import GeneratorConfig
from esrgan.enlarge import Pixels, enlarged
from esrgan.errors import EsrganError, UsageError
from esrgan.generator import Generator
from esrgan.parity import made_picture
from esrgan.upscale_one import upscale
from esrgan.upscaler import Upscaler


class Odd(Generator):
    """A network whose output a test chooses."""

    def __init__(self, forward):
        super().__init__(GeneratorConfig(channels=3, growth=1, blocks=1))
        self.made = forward

    def forward(self, lr):
        return self.made(lr)


def nearest(lr):
    return nn.functional.interpolate(lr, scale_factor=4, mode="nearest")


def picture(height=70, width=90):
    return torch.from_numpy(waves(height, width, 3, float)).permute(2, 0, 1)[None].float()


def test_it_equals_the_network(network, upscaler):
    image = picture(140, 130)
    with torch.no_grad():
        expected = network(image).clamp(0, 1)
    assert torch.allclose(upscaler(image), expected, atol=1e-5)
    assert upscaler(image).requires_grad is False
    upscaler(image).add_(1)  # an ordinary tensor


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 90), (90, 3), (17, 15), (65, 64)])
def test_every_size_comes_out_larger_and_of_the_same_colour(upscaler, size):
    image = picture(*size)
    sr = upscaler(image)
    assert sr.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert (sr.mean((-2, -1)) - image.mean((-2, -1))).abs().max() < 0.02


def test_the_callers_network_is_left_as_it_was(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Upscaler(network, device="cpu", precision="bf16")(picture(20, 20))
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_eight_threads_may_share_one(upscaler):
    images = [picture(40 + 5 * i, 60 - 3 * i) for i in range(8)]
    alone = [upscaler(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(upscaler, images * 4))
    assert all(torch.equal(a, b) for a, b in zip(alone * 4, together, strict=True))


def test_a_tile_that_overflows_in_16_bits_is_redone_in_fp32():
    def overflow(lr):
        sr = nearest(lr)
        if lr.dtype != torch.float32:
            sr[..., 0, 0] = torch.inf  # which clamping would hide
        return sr

    network = Odd(overflow)
    image = picture()
    sr = Upscaler(network, device="cpu", precision="bf16")(image)
    assert torch.equal(sr, nearest(image))


@pytest.mark.parametrize(("sound", "halves"), [((), 3), ((2,), 6)])
def test_where_16_bits_fail_tile_after_tile_they_are_tried_no_more(sound, halves):
    tried = []

    def network(lr):
        if lr.dtype == torch.float32:
            return nearest(lr)
        tried.append(lr)
        return nearest(lr) * (1 if len(tried) - 1 in sound else torch.nan)

    upscaler = Upscaler(Odd(network), device="cpu", precision="bf16")
    for _ in range(8):
        assert torch.equal(upscaler(picture()).bfloat16(), nearest(picture()).bfloat16())
    assert len(tried) == halves


def test_a_tile_whose_colour_moves_in_16_bits_is_redone_in_fp32():
    network = Odd(lambda lr: nearest(lr) if lr.dtype == torch.float32 else nearest(lr) * 0.9)
    assert torch.equal(Upscaler(network, device="cpu", precision="bf16")(picture()), nearest(picture()))


@pytest.mark.parametrize(("fault", "runs"), [(0.0, ["bf16", "fp32 64"]), (0.1, ["bf16", "fp32 64", "fp32"])])
def test_a_tile_whose_colour_the_network_moves_in_any_arithmetic_is_not_redone(fault, runs):
    seen = []

    def network(lr):
        whole = "" if max(lr.shape[-2:]) > 64 else f" {lr.shape[-1]}"
        seen.append(("fp32" if lr.dtype == torch.float32 else "bf16") + whole)
        return nearest(lr) * (0.8 if lr.dtype == torch.float32 else 0.8 - fault)

    sr = Upscaler(Odd(network), device="cpu", precision="bf16")(picture(150, 140))
    assert seen == runs
    torch.testing.assert_close(sr, 0.8 * nearest(picture(150, 140)), atol=0.01, rtol=0)


def test_one_picture_of_a_batch_that_comes_out_plain_is_noticed():
    network = Odd(lambda lr: nearest(lr) * torch.tensor([1, 0])[:, None, None, None])
    with pytest.raises(EsrganError, match="one colour for a tile of several"):
        Upscaler(network, device="cpu", precision="fp32")(picture().repeat(2, 1, 1, 1))


@pytest.mark.parametrize(
    ("spoil", "words"), [(lambda lr: nearest(lr) * torch.nan, "not finite"), (lambda lr: nearest(lr) * 0, "one colour")]
)
def test_a_broken_network_is_an_error_not_a_picture(spoil, words):
    with pytest.raises(EsrganError, match=words):
        Upscaler(Odd(spoil), device="cpu")(picture())


def test_a_picture_of_one_colour_may_stay_so():
    network = Odd(nearest)
    assert Upscaler(network, device="cpu")(torch.full((1, 3, 20, 20), 0.5)).unique().tolist() == [0.5]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("Unable to allocate"),
        RuntimeError("could not create a primitive"),
    ],
    ids=["torch", "numpy", "oneDNN"],
)
def test_out_of_memory_leads_to_smaller_tiles_and_is_said_once(error, caplog):
    tried = []

    def fits_100(lr):
        tried.append(max(lr.shape[-2:]))
        if max(lr.shape[-2:]) > 100:
            raise error
        return nearest(lr)

    image = picture(1000, 280)
    with caplog.at_level(logging.WARNING):
        sr = Upscaler(Odd(fits_100), device="cpu", precision="fp32")(image)
    assert torch.equal(sr, nearest(image))
    assert len(caplog.records) == 1
    assert "--tile" in caplog.text
    assert sum(side > 100 for side in tried) <= 3  # and what failed once is not tried for the next tile


def test_out_of_memory_in_the_smallest_tile_names_what_to_change():
    def never(lr):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(EsrganError, match=r"out of memory on cpu even with tiles of \d+ pixels; .* smaller --model$"):
        Upscaler(Odd(never), device="cpu")(picture())


def test_a_result_that_memory_cannot_hold_is_an_error_before_the_network_works(upscaler, monkeypatch):
    monkeypatch.setattr(upscaler, "piece", lambda *_, **__: pytest.fail("too late"))
    lr = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(EsrganError, match=r"10000000 x 10000000 pixels, .* GB, .* give the picture as a file"):
        upscale(lr, upscaler, width=10**7, height=10**7)
    monkeypatch.setattr("esrgan.upscale_one.free_bytes", lambda: 100 * 100 * 3 - 1)
    with pytest.raises(EsrganError, match=r"100 x 100 pixels"):
        upscale(lr, upscaler, width=100, height=100)

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("esrgan.upscaler.tiled", full)
    with pytest.raises(EsrganError, match=r"out of memory on cpu: the result has .* fewer or smaller pictures"):
        upscaler(picture())


def test_other_errors_of_the_network_come_through():
    def bug(lr):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Upscaler(Odd(bug), device="cpu")(picture())


@pytest.mark.parametrize("image", [
    torch.rand(3, 8, 8), torch.rand(1, 4, 8, 8), torch.rand(1, 3, 0, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
    torch.full((1, 3, 8, 8), torch.nan),
])  # fmt: skip
def test_what_is_no_picture_is_refused(upscaler, image):
    with pytest.raises(EsrganError):
        upscaler(image)


@pytest.mark.parametrize(
    "options", [{"device": "toaster"}, {"precision": "fp8"}, {"tile": 20}, {"tile": 0}, {"overlap": -1}]
)
def test_unknown_options_are_refused(network, options):
    with pytest.raises(EsrganError):
        Upscaler(network, **({"device": "cpu"} | options))


@pytest.mark.parametrize(("free", "tile"), [(9 << 30, 544), (7 << 30, 288), (None, 288)])
def test_the_tile_on_a_cpu_follows_the_free_memory(free, tile, network, monkeypatch):
    monkeypatch.setattr("esrgan.tile_size.free_bytes", lambda: free)
    assert Upscaler(network, device="cpu").tile == tile


def test_wide_pictures_are_made_in_bands_that_memory_holds(network, monkeypatch):
    upscaler = Upscaler(network, device="cpu", precision="fp32", tile=96)
    image = (made_picture(60, 300)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    pixels = Pixels(height=60, width=300, bands=3, dtype=np.uint8, read=lambda start, stop: image[start:stop])
    whole = np.concatenate(list(enlarged(upscaler, pixels)))
    monkeypatch.setattr("esrgan.enlarge.BAND", 100_000)
    monkeypatch.setattr("esrgan.enlarge.FLATTEST", 4)
    bands = list(enlarged(upscaler, pixels))
    assert len(bands) > 5
    assert max(band.nbytes for band in bands) <= 100_000
    assert np.abs(np.concatenate(bands).astype(int) - whole).max() <= 1


@pytest.mark.parametrize(("blocks", "tile", "overlap"), [(8, None, 16), (9, None, 32), (9, 64, 16), (9, 288, 32)])
def test_deep_networks_get_a_larger_overlap_where_the_tile_has_room(blocks, tile, overlap):
    network = Generator(GeneratorConfig(channels=4, growth=4, blocks=blocks))
    assert Upscaler(network, device="cpu", tile=tile).overlap == overlap


def test_the_bare_network_takes_tensors_alone(network):
    with pytest.raises(EsrganError, match=r"takes a tensor, not ndarray; esrgan\.upscale takes more"):
        Upscaler(network, device="cpu")(np.zeros((1, 3, 16, 16), np.float32))


def test_the_network_sees_no_tile_smaller_than_16_pixels():
    seen = []

    def network(lr):
        seen.append(min(lr.shape[-2:]))
        return nearest(lr)

    upscaler = Upscaler(Odd(network), device="cpu", precision="fp32")
    for size in ((1, 1), (3, 90), (15, 16), (16, 15)):
        assert torch.equal(upscaler(picture(*size)), nearest(picture(*size)))
    assert min(seen) >= 16


def test_the_smaller_tiles_overlap_where_memory_ran_out():
    def spoils_its_border(lr):
        if max(lr.shape[-2:]) > 100:
            raise MemoryError("Unable to allocate")
        sr = nearest(lr)
        sr[..., :32, :] = sr[..., -32:, :] = sr[..., :32] = sr[..., -32:] = 0
        return sr

    image = picture(250, 150)
    sr = Upscaler(Odd(spoils_its_border), device="cpu", precision="fp32")(image)
    assert torch.equal(sr[..., 32:-32, 32:-32], nearest(image)[..., 32:-32, 32:-32])


def test_what_leaves_the_range_is_clamped():
    image = picture()
    sr = Upscaler(Odd(lambda lr: 2 * nearest(lr) - 0.5), device="cpu", precision="fp32")(image)
    assert torch.equal(sr, (2 * nearest(image) - 0.5).clamp(0, 1))


@pytest.mark.parametrize(("dtype", "runs_in"), [(np.uint8, torch.bfloat16), (np.uint16, torch.float32),
                                                (np.float32, torch.float32)])  # fmt: skip
def test_pictures_of_more_than_8_bits_are_computed_in_fp32(dtype, runs_in):
    seen = set()

    def network(lr):
        seen.add(lr.dtype)
        return nearest(lr)

    upscale(waves(20, 30, 3, dtype).astype(dtype), Upscaler(Odd(network), device="cpu", precision="bf16"))
    assert seen == {runs_in}


def test_a_tile_that_is_plain_at_every_fifth_pixel_alone_is_not_taken_for_plain():
    def network(lr):
        sr = nearest(lr)
        sr[..., ::5, ::5] = 0.5
        return sr

    assert torch.equal(Upscaler(Odd(network), device="cpu", precision="fp32")(picture()), network(picture()))


def test_what_is_no_model_is_named():
    with pytest.raises(UsageError, match="Identity is no model; give a Generator, a file or a name"):
        Upscaler(torch.nn.Identity())


@pytest.mark.parametrize("low", [-1.0, -0.01])
def test_arrays_and_tensors_below_0_are_refused_and_not_clipped(upscaler, low):
    image = waves(20, 30, 3, float).astype(np.float32)
    image[0, 0] = low
    for made in (image, torch.from_numpy(image).permute(2, 0, 1)):
        with pytest.raises(EsrganError, match=r"in \[0, 1\]"):
            upscale(made, upscaler)


def test_a_pil_picture_keeps_what_it_says_of_itself(upscaler):
    image = photo()
    image.info = {"icc_profile": rgb_profile(), "dpi": (300, 300)}
    assert upscale(image, upscaler).info == image.info
