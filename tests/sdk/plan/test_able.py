"""What is told about adapters without factors."""

from types import SimpleNamespace

import pytest

from edgelora.plan.able import have_factors
from edgelora.registry import Registry


@pytest.mark.parametrize("settings", [None, {}, {"peft_type": "IA3"}])
def test_what_is_no_product_in_another_form_is_trained_again(settings):
    component = SimpleNamespace(config={"peftSettings": settings}, files=("adapter_model.safetensors",))
    assert have_factors("a", component, Registry.discover()).startswith("train again with an adapter that is")
