import torch

from esrgan.muon import Muon, orthogonalise


def test_singular_values_come_near_1():
    torch.manual_seed(0)
    for rows, columns in ((8, 40), (40, 8)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(3, rows, columns)))
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_it_learns():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 4, 3, 3))
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for _ in range(50):
        loss = weight.square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2


def test_shapes_processed_together_move_as_alone():
    torch.manual_seed(0)
    start = [torch.randn(4, 4, 3, 3) for _ in range(3)]
    together = [torch.nn.Parameter(w.clone()) for w in start]
    alone = [torch.nn.Parameter(w.clone()) for w in start]
    for weight, other in zip(together, alone, strict=True):
        weight.grad, other.grad = weight.detach().clone(), weight.detach().clone()
    Muon(together, lr=0.1).step()
    for weight in alone:
        Muon([weight], lr=0.1).step()
    for weight, other in zip(together, alone, strict=True):
        torch.testing.assert_close(weight, other)


def test_a_step_that_is_left_out_changes_nothing():
    weight = torch.nn.Parameter(torch.ones(4, 4, 3, 3))
    optimizer = Muon([weight], lr=0.1)
    weight.grad = torch.full_like(weight, float("nan"))
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(weight, torch.ones_like(weight))
    assert torch.equal(optimizer.state[weight]["momentum"], torch.zeros_like(weight))


def test_a_move_is_nesterovs_momentum_made_orthogonal_as_long_as_adams():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(4, 8, 3, 3))
    optimizer, momentum = Muon([weight], lr=0.1), torch.zeros_like(weight)
    for _ in range(3):
        before, weight.grad = weight.detach().clone(), torch.randn_like(weight)
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * weight.grad
        ahead = 0.95 * momentum + 0.05 * weight.grad
        wanted = orthogonalise(ahead.view(1, 4, 72)).view_as(weight)
        torch.testing.assert_close(before - weight, 0.1 * 0.2 * 72**0.5 * wanted)
