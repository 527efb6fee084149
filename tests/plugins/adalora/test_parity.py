"""Training with stock PEFT's AdaLoRA, step by step, gives the same masks and weights."""

import copy

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edgelora.layers import FrozenLinear
from edgelora.protocols import Site
from edgelora_plugins.adalora.layer import SvdAdapter
from edgelora_plugins.adalora.options import BudgetOptions, SvdOptions
from edgelora_plugins.adalora.schedule import BudgetScheduler

STEPS = 200
TARGETS = ("q_proj", "v_proj", "o_proj")
SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


def stock(model):
    config = peft.AdaLoraConfig(
        task_type="CAUSAL_LM",
        init_r=6,
        target_r=3,
        tinit=20,
        tfinal=40,
        deltaT=10,
        total_step=STEPS,
        lora_alpha=8,
        orth_reg_weight=0.5,
        target_modules=list(TARGETS),
    )
    return peft.get_peft_model(model, config)


def ours(model):
    adapter = SvdAdapter(SvdOptions(rank=6, alpha=8, orthogonality=0.5))
    names = [name for name, _ in model.named_modules() if name.endswith(TARGETS)]
    model.requires_grad_(False)
    layers = {}
    for depth, name in enumerate(names):
        site = Site(name, depth, name.rpartition(".")[2], 6, 8.0)
        layers[name] = adapter.wrap(FrozenLinear.of(model.get_submodule(name)), site)
        model.set_submodule(name, layers[name].double())
    adapter.link(layers)
    return layers


def test_masks_and_weights_are_those_of_stock_peft_over_200_steps():
    torch.manual_seed(0)
    # In float64: rounding, which Adam makes large where gradients are small, must not decide a mask.
    base = LlamaForCausalLM(LlamaConfig(**SIZES)).double()
    model = copy.deepcopy(base)
    layers, theirs = ours(model), stock(base)
    peers = {name: theirs.base_model.model.get_submodule(name) for name in layers}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.lora_A.copy_(peers[name].lora_A["default"])
            layer.lora_B.copy_(peers[name].lora_B["default"])
            # PEFT starts E at random small values; both start from those.
            layer.lora_E.copy_(peers[name].lora_E["default"])
    scheduler = BudgetScheduler(BudgetOptions(target_rank=3, warmup_steps=20, final_steps=40, every=10))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    their_optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=3e-3)
    scheduler.attach(layers, optimizer, STEPS)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        ids = torch.randint(0, 64, (2, 8), generator=generator)
        loss = model(input_ids=ids, labels=ids).loss
        loss = loss + sum(layer.aux_losses()["orthogonality"] for layer in layers.values())
        loss.backward()
        optimizer.step()
        scheduler.after_update(step)
        optimizer.zero_grad()
        their_loss = theirs(input_ids=ids, labels=ids).loss
        their_loss.backward()
        their_optimizer.step()
        theirs.base_model.update_and_allocate(step)
        their_optimizer.zero_grad()
        torch.testing.assert_close(loss, their_loss, rtol=1e-6, atol=1e-6, check_dtype=False)
        for name, layer in layers.items():
            assert torch.equal(layer.lora_E.ne(0), peers[name].lora_E["default"].ne(0)), (step, name)
    for name, layer in layers.items():
        for factor in ("lora_A", "lora_E", "lora_B"):
            mine, peer = getattr(layer, factor), getattr(peers[name], factor)["default"]
            torch.testing.assert_close(mine, peer, rtol=1e-6, atol=1e-6)
    kept = scheduler.rank_pattern()
    assert sum(kept.values()) == 3 * len(layers) and len(set(kept.values())) > 1
