"""Networks of other architectures (SwinIR, Compact, DAT, …), for enlarging only: read and run by spandrel."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from esrgan.errors import EsrganError, first_line
from esrgan.extras import how_to_install
from esrgan.foreign import OtherArchitectureError
from esrgan.generator import Generator
from esrgan.model_file import load_model
from esrgan.ncnn_files import is_param
from esrgan.weight_file import read_weights


class OtherNetwork(nn.Module):
    """A network that spandrel knows; RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale * H, scale * W)."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.network = descriptor.model
        self.scale: int = descriptor.scale
        self.architecture: str = descriptor.architecture.name
        self.halves: bool = descriptor.supports_half and descriptor.supports_bfloat16
        """Whether it runs in 16 bits; spandrel says bf16 of some networks, as SwinIR, that only run in fp32."""
        self._descriptor = descriptor

    def forward(self, lr: Tensor) -> Tensor:
        sr: Tensor = self._descriptor(lr)  # pads to the sizes that the network takes, and cuts the result
        return sr


def load_network(path: Path) -> Generator | OtherNetwork:
    """Like ``load_model``, and for other architectures than ESRGAN whatever spandrel makes of them.

    The file is read as safely as any other; spandrel gets its tensors only.

    Raises:
        EsrganError: As ``load_model``; or spandrel is not installed, or does not know the architecture.
    """
    try:
        return load_model(path)
    except OtherArchitectureError as other:
        if is_param(path):
            raise
        try:
            import spandrel  # noqa: PLC0415 - an extra
        except ImportError:
            raise EsrganError(f"{other}: {how_to_install('spandrel')}") from other
    tensors = read_weights(path).tensors
    try:
        descriptor = spandrel.ModelLoader(device="cpu").load_from_state_dict(tensors)
    except Exception as error:  # spandrel computes with whatever shapes it finds
        reason = first_line(error)
        raise EsrganError(f"{path}: spandrel cannot read this network either ({reason[:200]})") from error
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or descriptor.input_channels != 3:
        raise EsrganError(f"{path}: {descriptor.architecture.name} does not enlarge RGB pictures")
    return OtherNetwork(descriptor).eval()
