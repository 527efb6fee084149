"""Four-bit bases and what is said of them to stock tools."""

import pytest

from edgelora.engine.published import peft_form
from edgelora.registry import Registry
from edgelora.testing import conformance_of, run_check, tiny
from edgelora.testing.subject import make_subject

REGISTRY = Registry.discover()
OPTIONS = [
    ({}, True),
    ({"double_quantization": False}, True),
    ({"compute_dtype": "bfloat16"}, True),
    ({"block_size": 32}, False),
    ({"block_size": 128, "double_quantization": False}, False),
]
KINDS = pytest.mark.parametrize("kind", ["nf4", "fp4"])


@KINDS
@pytest.mark.parametrize(("options", "expressible"), OPTIONS)
def test_an_adapter_is_for_stock_peft_only_where_transformers_makes_the_same_base(kind, options, expressible):
    lora = REGISTRY.part("adapter", "lora:lora")
    plan = tiny.plan_with(REGISTRY, lora, {"quantizer": {"name": f"qlora:{kind}", **options}})
    subject = make_subject(plan)
    assert (peft_form(subject.layers, plan) is not None) == expressible


@KINDS
@pytest.mark.parametrize(("options", "expressible"), OPTIONS)
def test_transformers_makes_the_same_base_or_is_not_told_to(kind, options, expressible):
    checked = conformance_of(REGISTRY.part("quantizer", f"qlora:{kind}"), options=options)
    result = run_check(checked, "transformers_makes_the_same_base")
    assert result.outcome == ("ok" if expressible else "skipped"), result.detail
