import torch
from edgelora_eva.adapter import EvaAdapter
from edgelora_eva.options import EvaOptions
from torch import nn

from edgelora.layers import FrozenLinear
from edgelora.protocols import Batch, Site
from edgelora.testing import AdapterConformance


class TestEva(AdapterConformance):
    part = "eva"


class OneLinear(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(50, 8), layer

    def forward(self, input_ids, attention_mask, use_cache):
        return self.layer(self.embedding(input_ids))


def test_a_starts_at_the_first_right_singular_vectors_of_what_is_no_padding():
    torch.manual_seed(0)
    adapter = EvaAdapter(EvaOptions(rank=3, batches=2))
    base = FrozenLinear.of(nn.Linear(8, 6))
    layer = adapter.wrap(base, Site("linear", 0, "linear", rank=3, alpha=3.0))
    model = OneLinear(layer)
    ids = torch.randint(50, (3, 4, 10))
    masks = (torch.arange(10) < torch.tensor([10, 7, 4, 2])[:, None]).long().expand(3, 4, 10)
    batches = [Batch(i, m, i, torch.zeros(4, dtype=torch.int64)) for i, m in zip(ids, masks, strict=True)]
    adapter.calibrate(model, {"linear": layer}, iter(batches))
    X = model.embedding(ids[:2][masks[:2].bool()])
    expected = torch.linalg.svd(X).Vh[:3]
    assert torch.allclose((layer.lora_A * expected).sum(dim=1).abs(), torch.ones(3), atol=1e-4)
    assert not layer.lora_B.any() and model.training
