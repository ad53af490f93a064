import pytest
import torch

from esrgan.config import GeneratorConfig
from esrgan.errors import EsrganError
from esrgan.generator import Generator
from esrgan.tiling import STEP, spans, tiled


@pytest.mark.parametrize("length", [1, 2, 47, 48, 49, 63, 64, 65, 200, 1001])
@pytest.mark.parametrize(("tile", "overlap"), [(48, 0), (48, 8), (48, 20), (64, 16), (12, 2), (12, 4)])
def test_spans_cover_every_pixel_once_and_read_the_overlap_on_every_side_that_has_it(length, tile, overlap):
    cut = spans(length, tile, overlap)
    assert [span.start for span in cut] == [0] + [span.stop for span in cut[:-1]]
    assert cut[-1].stop == length
    for span in cut:
        assert span.start < span.stop
        assert span.start % STEP == span.read_start % STEP == 0
        assert span.read_start <= max(span.start - overlap, 0)
        assert span.read_stop >= min(span.stop + overlap, length)
        assert span.read_stop - span.read_start <= tile + STEP


@pytest.mark.parametrize(("tile", "overlap"), [(32, 16), (8, 2), (0, 0)])
def test_a_tile_too_small_for_its_overlap_is_refused(tile, overlap):
    with pytest.raises(EsrganError, match="too small for an overlap"):
        spans(100, tile, overlap)


@pytest.mark.parametrize("config", [
    GeneratorConfig(channels=8, growth=4, blocks=1),
    GeneratorConfig(channels=8, growth=4, blocks=1, scale=3),
    GeneratorConfig(channels=8, growth=4, blocks=1, scale=2, variant="subpixel"),
])  # fmt: skip
def test_tiling_equals_the_whole_image(config):
    torch.manual_seed(0)
    network = Generator(config)
    image = torch.rand(2, 3, 101, 87)
    with torch.no_grad():
        whole = network(image)
        parts = tiled(network, image, scale=config.scale, tile=72, overlap=28)
    assert torch.allclose(whole, parts, atol=1e-5)


def test_pixels_in_the_overlap_are_thrown_away():
    def spoil_the_border(piece):
        out = piece.clone()
        out[..., :4, :] = out[..., -4:, :] = out[..., :, :4] = out[..., :, -4:] = -1
        return out

    out = tiled(spoil_the_border, torch.ones(1, 1, 100, 100), scale=1, tile=40, overlap=4)
    assert (out[..., 4:-4, 4:-4] == 1).all()
