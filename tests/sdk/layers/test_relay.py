"""What layers hand to later layers, forward by forward."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from edgelora.errors import CombinationError
from edgelora.layers.relay import Relay, checkpoint_contexts, computed_again

NAMES = ("layers.0.q", "layers.1.q", "layers.2.q")


def test_a_layer_receives_from_as_many_before_it_as_it_reaches_nearest_first():
    relay, given = Relay(NAMES, 2), [torch.full((1, 2, 3), float(n)) for n in range(3)]
    received = [relay.exchange(place, own) for place, own in enumerate(given)]
    assert [[float(each[0, 0, 0]) for each in some] for some in received] == [[], [0.0], [1.0, 0.0]]
    assert [relay.before(place) for place in range(3)] == [(), NAMES[:1], (NAMES[1], NAMES[0])]


def test_a_reach_of_none_receives_nothing():
    relay = Relay(NAMES, 0)
    assert [relay.exchange(place, torch.zeros(1, 1)) for place in range(3)] == [(), (), ()]


def test_nothing_of_a_forward_is_kept_when_it_is_done():
    relay, kept = Relay(NAMES, 3), []
    for place in range(3):
        own = torch.zeros(2, 3)
        kept.append(weakref.ref(own))
        relay.exchange(place, own)
        del own
    gc.collect()
    assert [each() for each in kept] == [None, None, None]


def test_a_forward_that_broke_off_is_not_seen_by_the_next():
    relay = Relay(NAMES, 1)
    relay.exchange(0, torch.zeros(2, 3))
    relay.exchange(1, torch.ones(2, 3))
    assert relay.exchange(0, torch.zeros(5, 3)) == ()
    (received,) = relay.exchange(1, torch.zeros(5, 3))
    assert received.shape == (5, 3)


def test_a_layer_that_was_left_out_is_named():
    relay = Relay(NAMES, 1)
    relay.exchange(0, torch.zeros(2, 3))
    with pytest.raises(CombinationError, match=r"layers\.2\.q reads what layers\.1\.q was given") as caught:
        relay.exchange(2, torch.zeros(2, 3))
    assert "leave no block out" in caught.value.fix


def test_other_tokens_are_refused_even_where_they_could_be_added():
    relay = Relay(NAMES, 1)
    relay.exchange(0, torch.zeros(1, 3))
    with pytest.raises(CombinationError, match=r"given \(7,\) tokens, and layers.0.q before it \(1,\)"):
        relay.exchange(1, torch.zeros(7, 3))


def test_threads_do_not_see_each_other():
    relay, found = Relay(NAMES, 1), []

    def forward(value):
        relay.exchange(0, torch.full((1, 1), value))
        both.wait(10)
        (received,) = relay.exchange(1, torch.zeros(1, 1))
        found.append(float(received) == value)

    both = threading.Barrier(2)
    threads = [threading.Thread(target=forward, args=(float(value),)) for value in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True, True]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda relay: pickle.loads(pickle.dumps(relay))])
def test_a_copy_is_empty(copied):
    relay = Relay(NAMES, 1)
    relay.exchange(0, torch.zeros(1, 1))
    with pytest.raises(CombinationError):
        copied(relay).exchange(1, torch.zeros(1, 1))
    relay.exchange(1, torch.zeros(1, 1))


class Block(nn.Module):
    """Squares what it is given with what the block before was given; counts how often."""

    def __init__(self, relay, place):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0 + place))
        self.relay, self.place = relay, place
        self.first, self.again = 0, 0

    def forward(self, x):
        self.first += not computed_again()
        self.again += computed_again()
        low = self.weight * x
        self.last = weakref.ref(low.untyped_storage())
        return sum(self.relay.exchange(self.place, low), low).square()


class Blocks(nn.Module):
    def __init__(self, reach=2):
        super().__init__()
        relay = Relay(NAMES, reach)
        self.blocks = nn.ModuleList(Block(relay, place) for place in range(3))

    def forward(self, x, how=None):
        for block in self.blocks:
            x = checkpoint(block, x, **how) if how else block(x)
        return x.sum()

    def gradients(self, loss, **keep):
        loss.backward(**keep)
        found = [block.weight.grad.clone() for block in self.blocks]
        self.zero_grad(set_to_none=True)
        return torch.stack(found)


HOW = {"use_reentrant": False, "context_fn": checkpoint_contexts}


def batches():
    torch.manual_seed(0)
    return torch.rand(2, 3), torch.rand(1, 5)


def test_a_checkpointed_block_receives_again_what_it_received_first():
    blocks, (x, _) = Blocks(), batches()
    assert torch.equal(blocks.gradients(blocks(x, HOW)), blocks.gradients(blocks(x)))
    assert all(block.again == 1 for block in blocks.blocks)


def test_forwards_before_their_backwards_do_not_mix():
    blocks, (x, other) = Blocks(), batches()
    wanted = [blocks.gradients(blocks(each)) for each in (x, other)]
    losses = [blocks(each, HOW) for each in (x, other)]
    assert torch.equal(blocks.gradients(losses[0]), wanted[0])
    assert torch.equal(blocks.gradients(losses[1]), wanted[1])


def test_it_does_not_matter_which_thread_goes_backward():
    # A GPU's backward passes are made in a thread of its own.
    blocks, (x, _) = Blocks(), batches()
    wanted, loss, found = blocks.gradients(blocks(x)), blocks(x, HOW), []
    thread = threading.Thread(target=lambda: found.append(blocks.gradients(loss)))
    thread.start()
    thread.join()
    assert torch.equal(found[0], wanted)


def test_a_forward_without_gradients_in_between_changes_nothing():
    blocks, (x, other) = Blocks(), batches()
    wanted = blocks.gradients(blocks(x))
    loss = blocks(x, HOW)
    with torch.no_grad():
        blocks(other)
    assert torch.equal(blocks.gradients(loss), wanted)


def test_a_graph_that_is_kept_is_computed_again_each_time():
    blocks, (x, _) = Blocks(), batches()
    wanted, loss = blocks.gradients(blocks(x)), blocks(x, HOW)
    assert torch.equal(blocks.gradients(loss, retain_graph=True), wanted)
    assert torch.equal(blocks.gradients(loss), wanted)


def test_what_was_received_is_kept_as_long_as_the_graph():
    blocks, (x, _) = Blocks(), batches()
    loss = blocks(x, HOW)
    first, _, last = (block.last for block in blocks.blocks)
    gc.collect()
    assert first() is not None and last() is None  # nobody received what the last one left
    blocks.gradients(loss)
    del loss
    gc.collect()
    assert first() is None


@pytest.mark.parametrize("how", [{"use_reentrant": False}, {"use_reentrant": True}])
def test_checkpointing_that_would_compute_something_else_is_refused(how):
    blocks, (x, _) = Blocks(), batches()
    with pytest.raises(CombinationError, match="not computed just before it") as caught:
        blocks(x.requires_grad_(), how).backward()
    assert "context_fn=edgelora.layers.relay.checkpoint_contexts" in caught.value.fix
