"""Work for a CUDA device, recorded once as a graph and replayed: one launch in place of thousands.

A step of the full network is some ten thousand small kernels, which Python cannot launch as fast as a large GPU runs
them. Source: https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from esrgan.errors import first_line

WARM_UP = 2  # runs as written, in which libraries choose their kernels and optimizers make their state
Work = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
log = logging.getLogger("esrgan")


class Recorded:
    """``work``, recorded at its third call; where that fails it runs as it is written, and the log says so.

    All that changes between calls must lie in its two arguments, which keep their shapes, or in tensors that stay where
    they are. The device's random numbers follow ``torch.manual_seed`` in a replay too.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, lr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
        self._calls += 1
        if self._calls == WARM_UP + 1:
            self._record(lr, hr)
        if self._graph is None:
            with cudnn_tuned(), _aside(lr.device, wanted=self._calls <= WARM_UP):
                return self.work(lr, hr)
        self._lr.copy_(lr)
        self._hr.copy_(hr)
        self._graph.replay()
        return self._losses.clone(), self._finite.clone()

    def _record(self, lr: Tensor, hr: Tensor) -> None:
        self._lr, self._hr = lr.clone(), hr.clone()
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream(lr.device)  # type: ignore[no-untyped-call]
        try:
            # other threads cut patches meanwhile, which is no business of this graph
            recording = torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local")
            with torch.cuda.device(lr.device), cudnn_tuned(), recording:
                self._losses, self._finite = self.work(self._lr, self._hr)
        except RuntimeError as error:
            log.warning("steps are not recorded as a CUDA graph, which takes longer: %s", first_line(error))
            return
        self._graph = graph


@contextmanager
def cudnn_tuned() -> Iterator[None]:
    """Within it cuDNN measures which of its kernels is fastest for each shape; for work of few shapes."""
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        yield
    finally:
        cudnn.benchmark = before


@contextmanager
def _aside(device: torch.device, *, wanted: bool) -> Iterator[None]:
    """Within it the device works on a stream of its own, as it does in a recording."""
    if not wanted:
        yield
        return
    usual, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(usual)
    with torch.cuda.stream(aside):
        yield
    usual.wait_stream(aside)
