"""What holds for an adapter that wraps embeddings."""

from __future__ import annotations

import torch

from edgelora.capabilities import WrapsEmbeddings
from edgelora.engine.inject import trainable_parameters
from edgelora.layers import FrozenEmbedding, frozen_part, merge_into
from edgelora.testing.adapter_bench import STEPS, AdapterBench
from edgelora.testing.adapter_change import can_merge
from edgelora.testing.check import require, skip
from edgelora.testing.compare import bits_differ, distance
from edgelora.testing.subject import Subject

SITE = "model.embed_tokens"


class EmbeddingChecks(AdapterBench):
    """The part of `AdapterConformance` that is about embeddings."""

    def test_it_adapts_embeddings(self) -> None:
        """WrapsEmbeddings: rows start as the base's, learn, and merge into the rows that are looked up."""
        if WrapsEmbeddings.__name__ not in self.found().part.abilities:
            skip("it wraps linears only")
        quantizer = self.plans()[0].parts["quantizer"]
        plan = self._make_plan(
            f"{quantizer.plugin}:{quantizer.name}", {"target_modules": ["embed_tokens"]}, {}
        )
        subject = self.fresh_subject(plan)
        layer = subject.layers[SITE]
        base = frozen_part(layer)
        require(
            isinstance(base, FrozenEmbedding) and layer.weight is base.weight,
            f"the layer of {SITE} must hold the FrozenEmbedding it was given, and have its weight as weight",
        )
        for task, logits in subject.start_logits.items():
            far = distance(logits, subject.base_logits)
            require(far <= 1e-5, f"{self.over(subject, task)} adapted rows start {far:.2e} from the base")
        subject.train(STEPS)
        still = [name for name in trainable_parameters(subject.layers) if name not in subject.moved]
        require(not still, f"{', '.join(still[:3])} never gets a gradient; use it in forward")
        different = bits_differ(subject.base_tensors, subject.tensors_of_base())
        require(not different, f"{different} of the base is not what it was; never write to its rows")
        self._require_merge(subject)

    def _require_merge(self, subject: Subject) -> None:
        layer = subject.layers[SITE]
        base = frozen_part(layer)
        ids = torch.arange(base.num_embeddings)
        with torch.no_grad():
            rows = layer.eval()(ids)
            changed = distance(rows, base(ids))
            require(changed > 0, f"{STEPS} steps changed no row of {SITE}")
            if can_merge(layer):
                merged = merge_into(layer, base.weight.T.clone(), SITE).T
                far = distance(merged, rows)
                require(
                    far <= 1e-5,
                    f"the merge of {SITE} is {far:.2e} from the rows it gives; factors are those of W = Eᵀ: "
                    "A of (rank, tokens) and B of (width, rank)",
                )
