"""Training with stock PEFT's AdaLoRA, step by step, gives the same masks and weights."""

import copy
from types import SimpleNamespace

import peft
import torch
from torch import nn

from edgelora.layers import FrozenLinear
from edgelora.protocols import Site, TrainingRun
from edgelora_plugins.adalora.layer import SvdAdapter
from edgelora_plugins.adalora.options import BudgetOptions, SvdOptions
from edgelora_plugins.adalora.schedule import BudgetScheduler

STEPS = 200
SITES = ("o", "q", "v")
RANK, TARGET = 8, 3


class Chain(nn.Module):
    """Three linears; in float64, so that rounding decides no mask."""

    def __init__(self):
        super().__init__()
        for name in SITES:
            setattr(self, name, nn.Linear(16, 16, dtype=torch.float64))

    def forward(self, x, wanted):
        hidden = torch.tanh(self.v(torch.tanh(self.q(x))))
        return SimpleNamespace(loss=(self.o(hidden) - wanted).square().mean())


def stock(model):
    config = peft.AdaLoraConfig(
        init_r=RANK,
        target_r=TARGET,
        tinit=20,
        tfinal=40,
        deltaT=10,
        total_step=STEPS,
        lora_alpha=16,
        orth_reg_weight=0.1,
        target_modules=list(SITES),
    )
    return peft.get_peft_model(model, config).base_model


def ours(model):
    adapter = SvdAdapter(SvdOptions(rank=RANK, alpha=16, orthogonality=0.1))
    model.requires_grad_(False)
    layers = {}
    for depth, name in enumerate(SITES):
        base = FrozenLinear.of(model.get_submodule(name))
        layers[name] = adapter.wrap(base, Site(name, depth, name, RANK, 16.0)).double()
        model.set_submodule(name, layers[name])
    adapter.link(layers)
    return layers


def test_masks_and_weights_are_those_of_stock_peft_over_200_steps():
    torch.manual_seed(0)
    base = Chain()
    model = copy.deepcopy(base)
    layers, theirs = ours(model), stock(base)
    peers = {name: theirs.model.get_submodule(name) for name in SITES}
    with torch.no_grad():
        for name, layer in layers.items():
            peers[name].ranknum["default"].data = torch.tensor([RANK], dtype=torch.float64)
            for factor in ("lora_A", "lora_E", "lora_B"):
                getattr(layer, factor).copy_(getattr(peers[name], factor)["default"])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    # PEFT marks ranknum, the rank under alpha, as trainable; the method has it fixed.
    learned = [p for name, p in theirs.named_parameters() if p.requires_grad and "ranknum" not in name]
    their_optimizer = torch.optim.AdamW(learned, lr=1e-2)
    scheduler = BudgetScheduler(BudgetOptions(target_rank=TARGET, warmup_steps=20, final_steps=40, every=10))
    scheduler.attach(layers, optimizer, TrainingRun(STEPS, seed=0, tasks=("main",)))
    x = torch.randn(64, 16, dtype=torch.float64)
    wanted = x.roll(1, 1)
    for step in range(STEPS):
        loss = model(x, wanted).loss + sum(layer.aux_losses()["orthogonality"] for layer in layers.values())
        loss.backward()
        optimizer.step()
        scheduler.after_update(step)
        optimizer.zero_grad()
        their_loss = theirs(x, wanted).loss
        their_loss.backward()
        their_optimizer.step()
        theirs.update_and_allocate(step)
        their_optimizer.zero_grad()
        torch.testing.assert_close(loss, their_loss, rtol=1e-6, atol=1e-6)
        for name, layer in layers.items():
            assert torch.equal(layer.lora_E.ne(0), peers[name].lora_E["default"].ne(0)), (step, name)
    for name, layer in layers.items():
        for factor in ("lora_A", "lora_E", "lora_B"):
            mine, peer = getattr(layer, factor), getattr(peers[name], factor)["default"]
            torch.testing.assert_close(mine, peer, rtol=1e-5, atol=1e-5)
    kept = scheduler.rank_pattern()
    assert sum(kept.values()) == TARGET * len(SITES) and len(set(kept.values())) > 1
