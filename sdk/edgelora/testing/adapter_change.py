"""What holds for the change an adapter makes: delta, factors and merge are what its forward computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgelora.capabilities import Additive, ApproximatelyLowRank, Exportable, LowRank, Mergeable
from edgelora.engine.hot_path import use_own_forwards, uses_hot_path
from edgelora.engine.published import has_stock_base, peft_form
from edgelora.layers import FrozenLinear, merge_bias_into, merge_into
from edgelora.plan import Plan
from edgelora.testing.adapter_bench import STEPS, AdapterBench
from edgelora.testing.check import require, skip
from edgelora.testing.compare import distance
from edgelora.testing.subject import Subject, make_subject


class ChangeChecks(AdapterBench):
    """The part of `AdapterConformance` that is about what a layer adds to its base."""

    def test_the_delta_is_the_change(self) -> None:
        """An Additive layer computes y = base(x) + delta(x)."""
        self._compare_changes(Additive, "delta(x)", lambda layer, x: layer.delta(x))

    def test_the_factors_are_the_forward(self) -> None:
        """A LowRank layer computes y = base(x) + scaling · x Aᵀ Bᵀ, and its factors carry gradients."""

        def product(layer: Any, x: Tensor) -> Tensor:
            A, B, scaling = layer.factors()
            return scaling * (x @ A.to(x.dtype).T @ B.to(x.dtype).T)

        self._compare_changes(LowRank, "factors()", product)
        for subject in self.trained():
            for site, layer in subject.layers.items():
                if isinstance(layer, LowRank):
                    A, B, _ = layer.factors()
                    require(
                        A.requires_grad or B.requires_grad,
                        f"the factors of {site} carry no gradient; compute them from the parameters, "
                        "undetached",
                    )

    def _compare_changes(self, ability: Any, what: str, change: Any) -> None:
        self.skip_unless(ability)
        for subject in self.trained():
            subject.model.eval()
            for task in subject.routes():
                for site, (x, y) in subject.observe(subject.batch()).items():
                    layer = subject.layers[site]
                    if isinstance(layer, ability):
                        with torch.no_grad():
                            added = y - subject.base_of(site)(x)
                            computed = change(layer, x)
                        self._require_close(
                            computed, added, y, f"{self.over(subject, task)} {what} of {site}"
                        )

    def test_the_fused_form_is_its_forward(self) -> None:
        """Where a run computes layers by their factors (train.fused), it computes and learns the same."""
        compared = []
        for subject in self.trained():
            fused = make_subject(with_fused(subject.plan))
            if not any(map(uses_hot_path, fused.layers.values())):
                continue
            fused.train(STEPS)
            computed = {**fused.gradients(fused.batch()), **fused.logits()}
            use_own_forwards(fused.layers)
            own = {**fused.gradients(fused.batch()), **fused.logits()}
            far = {
                f"the loss of step {n}": abs(1 - loss / subject.losses[n])
                for n, loss in enumerate(fused.losses)
            }
            far |= {f"{name or 'the output'}": distance(computed[name], each) for name, each in own.items()}
            worst = max(far, key=far.__getitem__)
            most = 2e-2 if subject.plan.recipe.train.adapter_dtype == "bfloat16" else 1e-3
            require(
                far[worst] <= most,
                f"{self.over(subject)} {worst} is {far[worst]:.2e} off where layers compute by their "
                "factors; let factors() follow whatever changes what a layer computes",
            )
            compared.append(self.over(subject).rstrip(":"))
        if not compared:
            skip("its layers keep their own forward: they are not base(x) plus the product of factors")
        self.note("the_fused_form_is_its_forward", "; ".join(compared))

    def test_merging_is_the_forward(self) -> None:
        """One plain linear with the merged weight computes what the layer computes."""
        for subject in self.trained():
            subject.model.eval()
            if not any(can_merge(layer) for layer in subject.layers.values()):
                skip("its layers are neither Mergeable nor LowRank")
            for task in subject.routes():
                seen = subject.observe(subject.batch())
                for site, layer, base in layers_with_base(subject):
                    if not can_merge(layer):
                        continue
                    x, y = seen[site]
                    with torch.no_grad():
                        weight = base.dequantize(dtype=torch.float32).clone()
                        kept = weight.clone()
                        folded = merge_into(layer, weight, site)
                        half = merge_into(layer, weight.bfloat16(), site)
                        where = f"{self.over(subject, task)} the merge of {site}"
                        require(
                            torch.equal(weight, kept), f"{where} wrote to the weight it was given; copy it"
                        )
                        require(
                            folded.dtype == torch.float32 and half.dtype == torch.bfloat16,
                            f"{where} is {half.dtype} for a bfloat16 weight; answer in the dtype of the "
                            "weight",
                        )
                        plain = base(x)
                        bias = merge_bias_into(layer, None if base.bias is None else base.bias.float())
                        merged = functional.linear(x, folded, bias)
                    self._require_close(merged - plain, y - plain, y, where)

    def test_its_approximations_are_factors(self) -> None:
        """ApproximatelyLowRank: each way gives finite factors that fit; how near they come is told."""
        self.skip_unless(ApproximatelyLowRank)
        for subject in self.trained():
            subject.model.eval()
            far: dict[str, float] = {}
            for site, (x, y) in subject.observe(subject.batch()).items():
                layer, base = subject.layers[site], subject.base_of(site)
                for way in layer.approximations() if isinstance(layer, ApproximatelyLowRank) else ():
                    A, B, scaling = layer.approximate_factors(way)
                    fits = A.shape[0] == B.shape[1] and A.isfinite().all() and B.isfinite().all()
                    require(
                        fits and (B.shape[0], A.shape[1]) == (base.out_features, base.in_features),
                        f"{self.over(subject)} {way} gives {site} an A of {tuple(A.shape)} and a B of "
                        f"{tuple(B.shape)}; give finite ones of (rank, {base.in_features}) and "
                        f"({base.out_features}, rank)",
                    )
                    with torch.no_grad():
                        change = y - base(x)
                        error = distance(scaling * (x @ A.to(x.dtype).T @ B.to(x.dtype).T), change)
                    far[way] = max(far.get(way, 0.0), error)
            told = ", ".join(f"{way} {error:.0%}" for way, error in far.items())
            self.note("its_approximations_are_factors", f"off by at most {told} of a layer's change")

    def test_stock_peft_computes_what_is_published(self) -> None:
        """Where a stranger would load it with PEFT, PEFT's LoRA layer computes what the layer computes."""
        forms = {self.over(subject): peft_form(subject.layers, subject.plan) for subject in self.trained()}
        if not any(forms.values()):
            self._require_no_claim()
            skip("it is not published in PEFT's form: stock PEFT refuses it, and is not compared")
        if not find_spec("peft"):
            skip("peft is not installed: what stock PEFT computes of it is not compared")
        from edgelora.testing.stock_peft import peft_output

        for subject in self.trained():
            form = forms[self.over(subject)]
            subject.model.eval()
            for site, (x, y) in subject.observe(subject.batch()).items() if form else ():
                if form and site in form.ranks:
                    base = subject.base_of(site)
                    with torch.no_grad():
                        stock = peft_output(form, site, plain_copy(base), x)
                        plain = base(x)
                    where = f"{self.over(subject)} what stock PEFT computes for {site}"
                    self._require_close(stock - plain, y - plain, y, where)
        compared = "; ".join(name.rstrip(":") for name, form in forms.items() if form)
        self.note("stock_peft_computes_what_is_published", f"peft {version('peft')}: {compared}")

    def _require_no_claim(self) -> None:
        """Layers that are Exportable are published in that form, over a base that strangers can make."""
        for subject in self.trained():
            for site, layer in subject.layers.items() if has_stock_base(subject.plan) else ():
                if isinstance(layer, Exportable) and not subject.routed:
                    held = layer.peft_layer()
                    require(
                        False,
                        f"peft_layer() of {site} names {', '.join(held.tensors)} with {dict(held.settings)}: "
                        "its tensors must be those of the layer's state_dict (its names, less '.weight'), "
                        "and the settings the same in all layers",
                    )

    def _require_close(self, found: Tensor, expected: Tensor, scale: Tensor, where: str) -> None:
        far = float((found.float() - expected.float()).norm())
        most = 1e-3 * float(expected.norm()) + 1e-6 * float(scale.norm())
        require(
            far <= most,
            f"{where} is not what the forward computes: off by {far:.2e}, where the change is "
            f"{float(expected.norm()):.2e}; make both follow from the same parameters",
        )


def with_fused(plan: Plan) -> Plan:
    """The same plan with ``train.fused``."""
    train = plan.recipe.train.model_copy(update={"fused": True})
    return dataclasses.replace(plan, recipe=plan.recipe.model_copy(update={"train": train}))


def plain_copy(base: FrozenLinear) -> nn.Linear:
    """A plain linear that computes what a frozen one does."""
    with torch.no_grad():
        made = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None)
        made.weight.copy_(base.dequantize(dtype=torch.float32))
        if base.bias is not None:
            made.bias.copy_(base.bias)
    return made


def can_merge(layer: nn.Module) -> bool:
    """Whether a layer says that it can be folded into one weight."""
    return isinstance(layer, Mergeable | LowRank)


def layers_with_base(subject: Subject) -> Iterator[tuple[str, nn.Module, FrozenLinear]]:
    """Site, layer and the frozen linear in it, where it has one."""
    for site, layer in subject.layers.items():
        for part in layer.modules():
            if isinstance(part, FrozenLinear):
                yield site, layer, part
                break
