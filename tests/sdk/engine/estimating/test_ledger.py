"""The ledger against tensors of known size, with and without memory."""

import pytest
import torch

from edgelora.engine.estimating.ledger import Ledger


@pytest.fixture(params=["cpu", "meta"])
def device(request):
    return request.param


def test_views_and_changes_in_place_take_nothing(device):
    with Ledger() as ledger:
        numbers = torch.empty(1000, device=device)
        numbers[:10].view(2, 5).t()
        numbers.add_(1)
        numbers.view(10, 100).mul_(2)
        assert ledger.live == 4000
        assert ledger.peak == 4000


def test_memory_is_free_when_its_last_view_goes(device):
    with Ledger() as ledger:
        numbers = torch.empty(1000, device=device)
        part = numbers[:10]
        del numbers
        assert ledger.live == 4000
        del part
        assert ledger.live == 0
        assert ledger.peak == 4000


def test_the_peak_is_told_by_part(device):
    weight = torch.empty(100, 50, device=device)
    with Ledger() as ledger:
        ledger.claim([weight, weight[:3]], "weights")
        with ledger.part("logits"):
            first = torch.empty(10, device=device)
        second = torch.empty(20, device=device)
        del second
        assert ledger.at_peak == {"weights": 20_000, "logits": 40, "activations": 80}
        assert ledger.live == 20_040
        ledger.claim([first], "scratch")
        ledger.reset_peak()
        assert ledger.at_peak["scratch"] == 40
        assert ledger.at_peak["logits"] == 0


def test_what_was_made_before_counts_from_when_it_is_touched(device):
    kept = torch.empty(100, device=device)
    with Ledger() as ledger:
        assert ledger.live == 0
        kept.add_(1)
        assert ledger.live == 400


def test_a_backward_pass_is_followed_and_its_products_counted(device):
    weight = torch.nn.Parameter(torch.empty(30, 20, device=device))
    with Ledger() as ledger:
        (torch.empty(10, 20, device=device) @ weight.t()).sum().backward()
        assert weight.grad.shape == (30, 20)
        # Forward, and the gradient of the weight.
        assert ledger.flops == 2 * (2 * 10 * 20 * 30)


def test_a_closed_ledger_follows_nothing():
    with Ledger() as ledger:
        numbers = torch.empty(10)
    ledger.close()
    del numbers
    assert ledger.live == 40
