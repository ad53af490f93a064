"""Several processes on one run, started by torchrun: what they tell each other.

Alone (no torchrun, or one process) every function here gives back what it got. Gradients are averaged by one
all-reduce of a player's flat gradient and not by ``DistributedDataParallel``: that wrapper allows neither two forward
passes before a backward nor weights that are frozen in between, which is how GAN training uses the discriminator.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from esrgan.errors import EsrganError, first_line

T = TypeVar("T")

MEETING = timedelta(minutes=5)  # how long the processes wait for each other at the start
PATIENCE = timedelta(hours=4)  # and later: one may be decoding pictures or validating


@contextmanager
def joined() -> Iterator[None]:
    """Within it this process and the others that torchrun started can talk; without torchrun, nothing happens.

    Raises:
        EsrganError: The processes cannot meet: wrong RANK, WORLD_SIZE, MASTER_ADDR or MASTER_PORT; or a torch that was
            built without ``torch.distributed``, as some for Windows and Jetson are.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    if not dist.is_available():
        raise EsrganError("this torch was built without torch.distributed: install another, or train in one process")
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415 - not there without it

    try:
        if torch.cuda.is_available():  # else each process would open a context on the first GPU, of half a gigabyte
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        store, number, count = next(rendezvous("env://", timeout=MEETING))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise EsrganError(
            f"the processes of this run cannot meet: {first_line(error)}; check torchrun's options"
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _several() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _several() else 1


def local_rank() -> int:
    """The number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _several() else 0


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def average_(tensor: Tensor) -> Tensor:
    """Replace ``tensor`` by its mean over all processes."""
    if size() > 1:
        with _explained():
            dist.all_reduce(tensor)
        tensor /= size()
    return tensor


def everyone(batch: Tensor) -> Tensor:
    """The rows of all processes, (N, ...) -> (processes * N, ...).

    A loss of them is the same number everywhere; its gradient is such that the mean over processes of the weights'
    gradients is that of one process with the whole batch.
    """
    return cast(Tensor, _Everyone.apply(batch)) if size() > 1 else batch


class _Everyone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, batch: Tensor) -> Tensor:
        ctx.rows = len(batch)
        parts = [torch.empty_like(batch) for _ in range(size())]
        with _explained():
            dist.all_gather(parts, batch.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[rank() * ctx.rows : (rank() + 1) * ctx.rows] * size()


def anyone(flag: bool) -> bool:
    """Whether the flag is up in any process; over the host, so that no accelerator waits."""
    if size() == 1:
        return flag
    votes = torch.tensor(float(flag))
    with _explained():
        dist.all_reduce(votes)
    return votes.item() > 0


def shared(value: T) -> T:
    """What the first process has."""
    if size() == 1:
        return value
    box = [value]
    with _explained():
        dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def wait() -> None:
    """Go on when every process is here."""
    anyone(False)


def synchronised(net: nn.Module) -> nn.Module:
    """``net`` with batch norms that see all processes' pictures, where the device can (CUDA)."""
    if size() == 1 or not next(net.parameters()).is_cuda:
        return net
    return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(net))  # type: ignore[no-untyped-call]


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise EsrganError(
            f"another process of this run ended or cannot be reached ({first_line(error)}); "
            "the same torchrun command goes on from the last saved state"
        ) from error
