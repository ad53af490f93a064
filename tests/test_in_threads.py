import threading

import pytest
import torch

from esrgan.in_threads import MOST, in_threads


def test_results_come_in_order_and_threads_compute_alone():
    before = torch.get_num_threads()
    found = list(in_threads(lambda i: (i, torch.get_num_threads(), threading.get_ident()), range(50)))
    assert [i for i, _, _ in found] == list(range(50))
    assert {threads for _, threads, _ in found} == {1}
    assert threading.get_ident() not in {thread for *_, thread in found}
    assert torch.get_num_threads() == before


def test_an_error_comes_where_its_result_would():
    results = in_threads(lambda i: 12 // (6 - i), range(20))
    assert [next(results) for _ in range(6)] == [2, 2, 3, 4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_few_results_wait():
    begun = []
    results = in_threads(begun.append, range(1000))
    next(results)
    results.close()
    assert len(begun) < 4 * MOST
