import threading
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
import torch

from esrgan.errors import EsrganError
from esrgan.main_thread import MainThread


def test_what_threads_ask_for_is_done_by_the_one_that_serves():
    main = MainThread()
    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(main.run, threading.current_thread) for _ in range(9)]
        for future in asking:
            main.serve(until=future)
            assert future.result() is threading.current_thread()


def test_a_failure_goes_to_who_asked_and_the_next_is_served():
    def fail():
        raise EsrganError("no")

    main = MainThread()
    with ThreadPoolExecutor(1) as pool:
        bad, good = pool.submit(main.run, fail), pool.submit(main.run, lambda: 7)
        main.serve(until=bad)
        main.serve(until=good)
    with pytest.raises(EsrganError, match="no"):
        bad.result()
    assert good.result() == 7


def test_an_interrupt_lets_everyone_go():
    def interrupted():
        raise KeyboardInterrupt

    main = MainThread()
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(main.run, interrupted) for _ in range(4)]
        with pytest.raises(KeyboardInterrupt):
            main.serve(until=asking[0])
        main.close()
    for future in asking:
        with pytest.raises(CancelledError):
            future.result()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("Unable to allocate")])
def test_a_network_that_ran_out_of_memory_keeps_none_of_it(error):
    class Activation:
        pass

    alive = weakref.WeakSet()

    def network():
        activation = Activation()
        alive.add(activation)
        raise error

    def ask():
        try:
            main.run(network)
        except type(error):
            return len(alive)

    main = MainThread()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        main.serve(until=asked)
    assert asked.result() == 0
