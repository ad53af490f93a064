"""The RRDB generators: from a low-resolution picture to a larger one.

Source: Wang et al., ESRGAN (arXiv 1809.00219), section 3.1 and figure 4.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esrgan.config import GeneratorConfig, Start
from esrgan.convolutions import activate, conv, conv_activated, conv_enlarged
from esrgan.errors import EsrganError

RESIDUAL_SCALE = 0.2  # beta in the paper
INIT_SCALE = 0.1  # "smaller initialization", supplement, section 4


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
        if torch.compiler.is_compiling() and x.is_cuda and self.conv1.padding_mode == "zeros":
            return self.by_source(x)
        features = x
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = torch.cat((features, conv_activated(layer, features)), dim=1)
        return x + RESIDUAL_SCALE * cast(Tensor, self.conv5(features))

    def by_source(self, x: Tensor) -> Tensor:
        """The same sums in another order: every feature map is read once, by all the layers after it together.

        Nothing is concatenated and the convolutions are wide. On a GPU, once the additions are compiled into one, this
        is 1.18 times as fast as the form above, and a training keeps half as much memory (``docs/LOG.md``).
        """
        layers = (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5)
        sums: list[Tensor] = []
        source, start = x, 0
        for i, layer in enumerate(layers):
            stop = start + source.shape[1]
            weight = torch.cat([reader.weight[:, start:stop] for reader in layers[i:]])
            bias = torch.cat([cast(Tensor, reader.bias) for reader in layers]) if i == 0 else None
            parts = torch.split(F.conv2d(source, weight, bias, padding=1), [len(r.weight) for r in layers[i:]], dim=1)
            sums = [a + b for a, b in zip(sums[1:], parts, strict=True)] if sums else list(parts)
            if layer is not self.conv5:
                source, start = activate(sums[0]), stop
        return x + RESIDUAL_SCALE * sums[0]


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


def tail(generator: "Generator", x: Tensor) -> Tensor:
    """From the body's features to the picture; no method, so that it can be compiled and the network still copied."""
    classic = generator.config.variant == "classic"
    for i, factor in enumerate(generator.config.factors, 1):
        layer = generator.get_submodule(f"conv_up{i}")
        if classic:
            x = conv_enlarged(layer, x, factor)
        else:
            x = generator.get_submodule(f"prelu_up{i}")(F.pixel_shuffle(layer(x), factor))
    if classic:
        return cast(Tensor, generator.conv_last(conv_activated(generator.conv_hr, x)))
    return (torch.tanh(generator.conv_last(x)) + 1) / 2


class Generator(nn.Module):
    """An RRDB network; RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale * H, scale * W).

    The output is not clamped. Parameter names of the classic variant are those of BasicSR's ``RRDBNet``.

    Args:
        config: The shape; none = the paper's x4 network, 23 blocks.
        start: Weights to begin with: identity = a linear enlargement (classic only), paper = small noise.

    Raises:
        EsrganError: Fewer than 3 channels, which the identity start needs.
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
        self.tail = tail  # or its compiled form
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
        x = self.conv_first(lr if self.config.variant == "classic" else 2 * lr - 1)
        return self.tail(self, x + self.conv_body(self.body(x)))


@torch.no_grad()
def calm(block: RRDB) -> float:
    """Let a block that begins as small noise pass on nearly what it gets; gives the factor by which it enlarges that.

    Without it each block's features are 1 + ``RESIDUAL_SCALE`` times as large as the one before: the dense blocks pass
    their input on, and 0.2 of it is added. Over 23 blocks that is 66 times. Here each dense block takes half of its
    input away by the centre taps of its last convolution, so that an eighth of it is left after three.
    """
    for dense in (block.rdb1, block.rdb2, block.rdb3):
        centre = dense.conv5.weight[:, : len(dense.conv5.weight), 1, 1]  # those that read the block's own input
        centre.diagonal().fill_(-0.5 / RESIDUAL_SCALE)
    return 1 + RESIDUAL_SCALE * 0.5**3


@torch.no_grad()
def initialise(generator: Generator, start: Start = "identity") -> None:
    """Set the weights a training starts from.

    ``paper``: Kaiming (fan-in) times 0.1 and no bias, on the dense blocks' convolutions of the classic network and on
    every convolution of the sub-pixel one. ``identity`` is the same, but a classic network then begins as a linear
    enlargement instead of noise: RGB rides the long skip in channels 0 to 2 and the body learns the detail, which saves
    about two thirds of a short training. Every block is calmed too (see ``calm``), and ``conv_body`` makes up for it.
    The sub-pixel network has no such start and takes the paper's.
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
    for block in generator.body:
        generator.conv_body.weight.div_(calm(cast(RRDB, block)))
    generator.conv_body.bias.zero_()  # type: ignore[union-attr]


def is_plain(network: nn.Module) -> bool:
    """Whether it is what its config says, from which other engines build it: no subclass, no other borders."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return type(network) is Generator and all(layer.padding_mode == "zeros" for layer in convolutions)
