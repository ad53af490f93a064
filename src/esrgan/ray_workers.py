"""Bulk upscaling on Ray: one command's pictures, enlarged by workers on all machines of a cluster.

The plan, the record and the names stay with the command; a worker turns one file into another.
"""

import os
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from esrgan import __version__
from esrgan.engines import Network
from esrgan.errors import EsrganError, first_line
from esrgan.extras import import_extra
from esrgan.folders import Job, Naming
from esrgan.memory import keep_buffers
from esrgan.upscale_run import FAILURES, as_ours, enlarge
from esrgan.upscaler import Upscaler

RETRIES = 1
"""How often a picture is tried again whose worker died: another one may be the one that takes too much memory."""
SETTINGS = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` sends the current folder to all machines
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what concerns the user comes as an error
}
"""Of Ray, where the user has not set them."""


class Worker:
    """A process of the cluster that enlarges pictures, with a GPU of its own or all cores of a machine."""

    def __init__(self, network: Network, options: dict[str, Any], naming: Naming) -> None:
        keep_buffers()
        self.network, self.options, self.naming = network, options, naming

    @cached_property
    def upscaler(self) -> Upscaler:
        """Made when it is needed: a worker that was started again is not told to begin."""
        return Upscaler(self.network, **self.options)

    def begin(self, version: str, folder: Path) -> tuple[str, str]:
        """Prepare; gives what this worker does and how, and what is wrong with it, if anything is."""
        if version != __version__:
            return "", f"has esrgan {__version__}, not {version}"
        if not folder.is_dir():
            return "", f"does not see {folder}"
        try:
            return self.upscaler.about, ""
        except EsrganError as error:
            return "", f"cannot run the network ({error})"

    def enlarge(self, job: Job, source: Path, result: Path) -> tuple[int, int] | EsrganError:
        """Do the job from ``source`` to ``result``; gives the result's width and height, or what went wrong."""
        try:
            with result.open("w+b") as file:
                return enlarge(self.upscaler, self.naming, job, source, file.fileno())
        except FAILURES as error:
            return as_ours(error, self.upscaler.tile)


class Workers:
    """All workers of a cluster: one for each GPU, and one for each machine without any.

    The cluster is the one that ``RAY_ADDRESS`` or a ``ray start`` on this machine names, else this machine alone.

    Args:
        network: What they run.
        options: How, as ``Upscaler`` takes them.
        naming: How large results are, and in which folder, which every machine must see.

    Raises:
        EsrganError: Ray is not installed or its cluster not there; or a machine has another esrgan, does not see the
            folder, or cannot run the network so.
    """

    def __init__(self, network: Network, options: dict[str, Any], naming: Naming) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        self._ray = import_extra("ray", "ray")
        try:
            self._ray.init(logging_level="ERROR", log_to_driver=False, include_dashboard=False)
            self._network = self._ray.put(network)  # kept, for workers that start again
            self._all = list(self._start(self._network, options, naming))
            folder = naming.root.absolute()
            answers = self._ray.get([worker.begin.remote(__version__, folder) for worker in self._all])
        except Exception as error:  # what Ray raises where it cannot start has no type of its own
            self.close()
            raise EsrganError(f"Ray cannot be used: {first_line(error)}") from error
        wrong = [problem for _, problem in answers if problem] or ([] if answers else ["has no free processor"])
        if wrong:
            self.close()
            raise EsrganError(f"a machine of the Ray cluster {wrong[0]}; all need the same esrgan, and shared folders")
        ways = ", ".join(dict.fromkeys(about for about, _ in answers))
        self.about = f"{len(self)} worker{'s' * (len(self) != 1)} on Ray: {ways}"
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for worker in self._all:
            self._idle.put(worker)

    def __len__(self) -> int:
        return len(self._all)

    def enlarge(self, job: Job, result: Path) -> tuple[int, int]:
        """Have the job done, into the file ``result``; waits until a worker is free. Gives the width and height.

        Raises:
            EsrganError: It failed, or killed its worker.
        """
        worker = self._idle.get()
        try:
            coming = worker.enlarge.remote(job, job.source.absolute(), result.absolute())
            done: tuple[int, int] | EsrganError = self._ray.get(coming)
        except self._ray.exceptions.RayTaskError:  # a fault of the program's
            raise
        except self._ray.exceptions.RayError as error:
            raise EsrganError(f"its worker died {1 + RETRIES} times, perhaps for lack of memory") from error
        finally:
            self._idle.put(worker)
        if isinstance(done, EsrganError):
            raise done
        return done

    def close(self) -> None:
        """End the workers, whatever they do, and leave the cluster."""
        self._ray.shutdown()

    def _start(self, network: Any, options: dict[str, Any], naming: Naming) -> Any:
        actor = self._ray.remote(Worker)
        at = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        for node in self._ray.nodes():
            cores, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
            gpus = 0 if options["device"] == "cpu" else gpus
            for _ in range((gpus or min(1, cores)) if node["Alive"] else 0):
                yield actor.options(
                    num_gpus=1 if gpus else 0, num_cpus=min(1, cores) if gpus else cores,
                    scheduling_strategy=at(node["NodeID"], soft=True), max_restarts=-1, max_task_retries=RETRIES,
                ).remote(network, options, naming)  # fmt: skip
