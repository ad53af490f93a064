"""``torch.compile`` for RRDB networks: of a residual block, once, for all of them, and of what comes after them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec

import torch

from esrgan.generator import Generator, tail

GRAPHS = 64
"""That torch may compile in all: four for each network and arithmetic."""
AT_ONCE = "force_non_lazy_backward_lowering"
"""Torch's option to compile a backward pass with its forward, where errors of compiling are still caught."""


def compile_blocks(generator: Generator, *, dynamic: bool | None) -> None:
    """Let torch compile the generator's residual blocks and what comes after them where they are, at their first use.

    All blocks are compiled as one, in a fraction of the time that the whole network takes. Names and weights stay.

    Args:
        generator: Changed in place.
        dynamic: For pictures of any size; none = for that of the first, and for any if another comes.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(GRAPHS, config.recompile_limit)  # of all networks together; beyond it runs eager
    for block in generator.body:
        block.compile(dynamic=dynamic)
    generator.tail = torch.compile(tail, dynamic=dynamic)


def can_compile(device: torch.device) -> bool:
    """Whether compiled networks are faster there and can be made: on CUDA, with Triton and a C compiler."""
    if device.type != "cuda" or not find_spec("triton") or torch.cuda.get_device_capability(device) < (7, 0):
        return False
    return any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang", "cl"))


@contextmanager
def falling_back(*, wanted: bool = True) -> Iterator[None]:
    """Within it a network that torch fails to compile runs as it is written."""
    if not wanted:
        yield
        return
    with torch._dynamo.config.patch(suppress_errors=True):
        yield


def compile_to_train(generator: Generator) -> bool:
    """Compile its blocks where a training gains by that; gives whether they are.

    Where torch cannot compile them after all they run as they are written.
    """
    if not can_compile(next(generator.parameters()).device):
        return False
    torch._dynamo.config.suppress_errors = True
    if hasattr(torch._functorch.config, AT_ONCE):
        setattr(torch._functorch.config, AT_ONCE, True)
    compile_blocks(generator, dynamic=None)
    return True


def as_written(device: torch.device) -> AbstractContextManager[object]:
    """Within it networks on ``device`` run uncompiled: pictures of many sizes would be compiled one by one."""
    return torch.compiler.set_stance("force_eager") if can_compile(device) else nullcontext()
