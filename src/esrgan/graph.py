"""The RRDB network as other engines build it: the order of its layers, once; each engine says how it makes one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from torch import Tensor, nn

from esrgan.generator import Generator, ResidualDenseBlock, ResidualDenseBlockPlus

Blob = TypeVar("Blob")
"""What stands for a layer's output: a name, a node."""


class Graph(ABC, Generic[Blob]):
    """Builds the layers of a ``Generator``, from its picture to its result."""

    def network(self, generator: Generator, picture: Blob) -> Blob:
        """All layers of ``generator``; with pixel-unshuffle, ``picture`` must be a whole number of pixel blocks."""
        config, classic = generator.config, generator.config.variant == "classic"
        x = picture if classic else self.affine(picture, 2.0, -1.0)
        first = x = self.conv(generator.conv_first, x, unshuffle=config.unshuffle)
        for block in generator.body:
            start = x
            for name in ("rdb1", "rdb2", "rdb3"):
                dense = block.get_submodule(name)
                assert isinstance(dense, ResidualDenseBlock)
                x = self._dense(dense, x)
            x = self.scaled_add(x, start)
        x = self.add(first, self.conv(generator.conv_body, x))
        for i, factor in enumerate(config.factors, 1):
            layer = generator.get_submodule(f"conv_up{i}")
            if classic:
                x = self.conv_enlarged(layer, x, factor)
            else:
                slope = generator.get_parameter(f"prelu_up{i}.weight")
                x = self.prelu(self.shuffle(self.conv(layer, x), factor), slope)
        if classic:
            x = self.conv(generator.conv_hr, x, activated=True)
        x = self.conv_last(generator.conv_last, x, max(config.factors, default=1))
        return x if classic else self.affine(self.tanh(x), 0.5, 0.5)

    def _dense(self, block: ResidualDenseBlock, x: Blob) -> Blob:
        plus = isinstance(block, ResidualDenseBlockPlus)
        features = [x, self.conv(block.conv1, x, activated=True)]
        for i, layer in enumerate((block.conv2, block.conv3, block.conv4), 2):
            new = self.conv_all(layer, features, activated=True)
            if plus and i != 3:
                new = self.add(new, self.conv(block.get_submodule("conv1x1"), x) if i == 2 else features[2])
            features.append(new)
        return self.scaled_add(self.conv_all(block.conv5, features), x)

    @abstractmethod
    def conv(self, layer: nn.Module, x: Blob, *, activated: bool = False, unshuffle: int = 1) -> Blob:
        """A convolution that keeps height and width, after pixel-unshuffle and before LeakyReLU where asked for."""

    def conv_enlarged(self, layer: nn.Module, x: Blob, factor: int) -> Blob:
        """A convolution with LeakyReLU after nearest enlargement."""
        return self.conv(layer, self.nearest(x, factor), activated=True)

    def conv_all(self, layer: nn.Module, features: Sequence[Blob], *, activated: bool = False) -> Blob:
        """A convolution of all ``features`` together, before LeakyReLU where asked for."""
        return self.conv(layer, self.concat(features), activated=activated)

    def conv_last(self, layer: nn.Module, x: Blob, factor: int) -> Blob:  # noqa: ARG002 - for those who override it
        """The convolution to RGB; height and width of ``x`` are multiples of ``factor``."""
        return self.conv(layer, x)

    @abstractmethod
    def concat(self, features: Sequence[Blob]) -> Blob:
        """Their channels one after the other."""

    @abstractmethod
    def add(self, x: Blob, y: Blob) -> Blob:
        """Their sum."""

    @abstractmethod
    def scaled_add(self, new: Blob, x: Blob) -> Blob:
        """``RESIDUAL_SCALE * new + x``."""

    @abstractmethod
    def affine(self, x: Blob, factor: float, offset: float) -> Blob:
        """``factor * x + offset``."""

    @abstractmethod
    def nearest(self, x: Blob, factor: int) -> Blob:
        """Each pixel ``factor`` x ``factor`` times."""

    @abstractmethod
    def shuffle(self, x: Blob, factor: int) -> Blob:
        """Pixel-shuffle."""

    @abstractmethod
    def prelu(self, x: Blob, slope: Tensor) -> Blob:
        """PReLU with one slope."""

    @abstractmethod
    def tanh(self, x: Blob) -> Blob:
        """Hyperbolic tangent."""
