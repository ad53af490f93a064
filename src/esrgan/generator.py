"""The RRDB generators: from a low-resolution picture to a larger one.

Source: Wang et al., ESRGAN (arXiv 1809.00219), section 3.1 and figure 4.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esrgan.config import GeneratorConfig, Start
from esrgan.errors import EsrganError

RESIDUAL_SCALE = 0.2  # beta in the paper
NEGATIVE_SLOPE = 0.2
_FUSES = (  # where torch has oneDNN, and that bf16
    hasattr(torch.ops.mkldnn, "_convolution_pointwise") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
)
_LEAKY = ("leaky_relu", [NEGATIVE_SLOPE], "")
INIT_SCALE = 0.1  # "smaller initialization", supplement, section 4


def activate(x: Tensor) -> Tensor:
    """The network's LeakyReLU."""
    return F.leaky_relu(x, NEGATIVE_SLOPE)


def conv_activated(layer: nn.Module, x: Tensor) -> Tensor:
    """``activate(layer(x))``; for inference in bf16 on a CPU oneDNN does both at once, 6 % sooner for a network."""
    assert isinstance(layer, nn.Conv2d)
    on_cpu = x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.is_inference_mode_enabled()
    if not (_FUSES and on_cpu and layer.padding_mode == "zeros") or torch.compiler.is_compiling():
        return activate(layer(x))
    geometry = (layer.padding, layer.stride, layer.dilation, layer.groups)
    fused = torch.ops.mkldnn._convolution_pointwise(x, layer.weight, layer.bias, *geometry, *_LEAKY)
    return cast(Tensor, fused)


def conv_enlarged(layer: nn.Module, x: Tensor, factor: int) -> Tensor:
    """``activate(layer(nearest enlargement of x))``, (N, C, H, W) -> (N, C', factor * H, factor * W).

    On a CPU, for inference in bf16 and for training in fp32, as a transposed convolution, which is the same up to
    rounding and about twice as fast (``docs/LOG.md``). Elsewhere it stays what it is, bit for bit.
    """
    assert isinstance(layer, nn.Conv2d)
    bf16 = x.dtype == torch.bfloat16
    wins = x.device.type == "cpu" and (torch.is_inference_mode_enabled() if bf16 else layer.training)
    if not wins or layer.padding_mode != "zeros" or torch.compiler.is_compiling():
        return conv_activated(layer, F.interpolate(x, scale_factor=factor, mode="nearest"))
    kernel = transposed_kernel(layer.weight, factor)
    kernel = evenly_rounded(kernel, factor).bfloat16() if bf16 else kernel
    return F.leaky_relu_(F.conv_transpose2d(x, kernel, layer.bias, stride=factor, padding=1), NEGATIVE_SLOPE)


def transposed_kernel(weight: Tensor, factor: int) -> Tensor:
    """A transposed convolution's kernel that does what ``weight`` does after nearest enlargement.

    Of the pixels that ``weight`` reads there, up to ``factor`` in a row are copies of one; their weights are summed. So
    (factor + 2)^2 products take the place of 9 factor^2.

    Args:
        weight: (out, in, 3, 3), for padding 1.
        factor: The enlargement; the stride of the transposed convolution, whose padding is 1 too.

    Returns:
        (in, out, factor + 2, factor + 2), float32.
    """
    ones = torch.ones(1, 1, factor, factor, device=weight.device)
    with torch.autocast(weight.device.type, enabled=False):
        summed = F.conv2d(weight.float().flatten(0, 1)[:, None], ones, padding=factor - 1)
    return summed.view(*weight.shape[:2], factor + 2, factor + 2).flip(2, 3).transpose(0, 1)


def evenly_rounded(kernel: Tensor, factor: int) -> Tensor:
    """The kernel of a transposed convolution with values that bf16 holds, rounded so that flat areas stay flat.

    Each of factor x factor neighbouring pixels is made by its own taps of ``kernel``. Their sums are one number, and
    would not be after plain rounding: a grid. Here what a sum is off goes into its smallest tap, which has the finest
    steps.

    Args:
        kernel: (in, out, factor + 2, factor + 2), float32.
        factor: The stride.
    """
    side = kernel.shape[-1]
    count = -(-side // factor)
    pad, ends = [0, count * factor - side] * 2, kernel.shape[:2]

    def by_pixel(image: Tensor) -> Tensor:
        """(in, out, side, side) -> (in, out, factor, factor, taps); where a pixel has fewer, zeros."""
        return F.pad(image, pad).view(*ends, count, factor, count, factor).permute(0, 1, 3, 5, 2, 4).flatten(4)

    taps, there = by_pixel(kernel), by_pixel(torch.ones_like(kernel)) > 0
    wanted = taps.sum(-1, keepdim=True)
    if factor > 2:  # a pixel has one tap only, which sets what the others can be
        wanted = wanted.bfloat16().float()
    taps = taps.bfloat16().float()
    for _ in range(4):
        smallest = taps.abs().masked_fill(~there, torch.inf).argmin(-1, keepdim=True)
        taps = taps.scatter_add(-1, smallest, wanted - taps.sum(-1, keepdim=True)).bfloat16().float()
    even = taps.view(*ends, factor, factor, count, count).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
    return even[..., :side, :side].contiguous()


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each reading every feature map before it; (N, channels, H, W) in and out."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, growth)
        self.conv2 = conv(channels + growth, growth)
        self.conv3 = conv(channels + 2 * growth, growth)
        self.conv4 = conv(channels + 3 * growth, growth)
        self.conv5 = conv(channels + 4 * growth, channels)

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = torch.cat((features, conv_activated(layer, features)), dim=1)
        return x + RESIDUAL_SCALE * cast(Tensor, self.conv5(features))


class ResidualDenseBlockPlus(ResidualDenseBlock):
    """ESRGAN+'s dense block: a further residual path into every second layer (arXiv 2001.08073)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__(channels, growth)
        self.conv1x1 = nn.Conv2d(channels, growth, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x1 = conv_activated(self.conv1, x)
        x2 = conv_activated(self.conv2, torch.cat((x, x1), dim=1)) + self.conv1x1(x)
        x3 = conv_activated(self.conv3, torch.cat((x, x1, x2), dim=1))
        x4 = conv_activated(self.conv4, torch.cat((x, x1, x2, x3), dim=1)) + x2
        return x + RESIDUAL_SCALE * cast(Tensor, self.conv5(torch.cat((x, x1, x2, x3, x4), dim=1)))


class RRDB(nn.Module):
    """Residual-in-residual dense block: three dense blocks and a scaled skip around them."""

    def __init__(self, channels: int, growth: int, *, plus: bool = False) -> None:
        super().__init__()
        dense = ResidualDenseBlockPlus if plus else ResidualDenseBlock
        self.rdb1 = dense(channels, growth)
        self.rdb2 = dense(channels, growth)
        self.rdb3 = dense(channels, growth)

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * cast(Tensor, self.rdb3(self.rdb2(self.rdb1(x))))


def unshuffle(image: Tensor, side: int) -> Tensor:
    """Each ``side`` x ``side`` pixels as the channels of one; the far edges are mirrored up to a whole number first."""
    rows, columns = (mirrored(size, size + -size % side, image.device) for size in image.shape[-2:])
    return F.pixel_unshuffle(image[..., rows, :][..., columns], side)


def mirrored(size: int, wanted: int, device: torch.device | None = None) -> Tensor:
    """Which of ``size`` pixels stand in a row that is mirrored at its end to ``wanted`` of them."""
    index = torch.arange(wanted, device=device)
    return torch.minimum(index, 2 * size - 2 - index).clamp(min=0)


class Generator(nn.Module):
    """An RRDB network; RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale * H, scale * W).

    The output is not clamped. Parameter names of the classic variant are those of BasicSR's ``RRDBNet``.
    """

    def __init__(self, config: GeneratorConfig | None = None, *, start: Start = "identity") -> None:
        super().__init__()
        self.config = config or GeneratorConfig()
        classic = self.config.variant == "classic"
        channels, ends = self.config.channels, 3 if classic else 9
        self.conv_first = conv(3 * self.config.unshuffle**2, channels, ends)
        self.body = nn.Sequential(
            *(RRDB(channels, self.config.growth, plus=self.config.plus) for _ in range(self.config.blocks))
        )
        self.conv_body = conv(channels, channels)
        for i, factor in enumerate(self.config.factors, 1):
            self.add_module(f"conv_up{i}", conv(channels, channels * (1 if classic else factor**2)))
            if not classic:
                self.add_module(f"prelu_up{i}", nn.PReLU())
        if classic:
            self.conv_hr = conv(channels, channels)
        self.conv_last = conv(channels, 3, ends)
        initialise(self, start)

    @property
    def scale(self) -> int:
        """How many times larger the output is."""
        return self.config.scale

    def forward(self, lr: Tensor) -> Tensor:
        if self.config.unshuffle > 1:
            height, width = lr.shape[-2:]
            sr = self.enlarge(unshuffle(lr, self.config.unshuffle))
            return sr[..., : self.scale * height, : self.scale * width]
        return self.enlarge(lr)

    def enlarge(self, lr: Tensor) -> Tensor:
        """All that comes after pixel-unshuffle."""
        classic = self.config.variant == "classic"
        x = self.conv_first(lr if classic else 2 * lr - 1)
        x = x + self.conv_body(self.body(x))
        for i, factor in enumerate(self.config.factors, 1):
            layer = self.get_submodule(f"conv_up{i}")
            if classic:
                x = conv_enlarged(layer, x, factor)
            else:
                x = self.get_submodule(f"prelu_up{i}")(F.pixel_shuffle(layer(x), factor))
        if classic:
            return cast(Tensor, self.conv_last(conv_activated(self.conv_hr, x)))
        return (torch.tanh(self.conv_last(x)) + 1) / 2


@torch.no_grad()
def initialise(generator: Generator, start: Start = "identity") -> None:
    """Set the weights a training starts from.

    ``paper``: Kaiming (fan-in) times 0.1 and no bias, on the dense blocks' convolutions of the classic network and on
    every convolution of the sub-pixel one. ``identity`` is the same, but a classic network then begins as a linear
    enlargement instead of noise: RGB rides the long skip in channels 0 to 2 and the body learns the detail, which saves
    about two thirds of a short training. The sub-pixel network has no such start and takes the paper's.
    """
    if generator.conv_first.weight.is_meta:  # a model file fills it; and normal_ there imports seconds of torch._dynamo
        return
    classic = generator.config.variant == "classic"
    for module in generator.body.modules() if classic else generator.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            module.weight.mul_(INIT_SCALE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if classic and start == "identity":
        if generator.config.channels < 3:
            raise EsrganError(
                f"the identity start needs at least 3 channels, not {generator.config.channels}; use start = paper"
            )
        _carry_rgb(generator)


def _carry_rgb(generator: Generator) -> None:
    centre = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    taps = {
        2: torch.tensor([1.0, 2, 1]) / 4,
        3: torch.tensor([1.0, 1, 1]) / 3,
    }  # nearest, then these = linear
    kernels = {"conv_first": centre, "conv_hr": centre, "conv_last": centre}
    for i, factor in enumerate(generator.config.factors, 1):
        kernels[f"conv_up{i}"] = torch.outer(taps[factor], taps[factor])
    for name, kernel in kernels.items():
        layer = generator.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        layer.bias.zero_()
        layer.weight[:3] = 0
        inputs = generator.config.unshuffle**2 if name == "conv_first" else 1
        for channel in range(3):
            layer.weight[channel, channel * inputs : (channel + 1) * inputs] = kernel / inputs
    generator.conv_body.weight.mul_(INIT_SCALE)
    generator.conv_body.bias.zero_()  # type: ignore[union-attr]
