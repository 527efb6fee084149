"""LoRA on any module with linears: no transformers, no tokenizer, no run folder."""

import torch
from torch import nn

from edgelora.engine.inject import inject, trainable_parameters
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
recipe = make_recipe({"derivative": "lora", "base": "none", "adapter": {"rank": 4, "target_modules": ["2"]}})
layers = inject(model, make_plan(recipe, Registry.discover()))

x = torch.randn(256, 8)
y = x.sum(dim=1, keepdim=True)
optimizer = torch.optim.AdamW(trainable_parameters(layers).values(), lr=1e-2)
losses = []
for _ in range(200):
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
print(f"adapted {list(layers)}: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
