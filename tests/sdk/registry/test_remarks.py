"""What a listing says of plugins that are fine on their own and odd together."""

from fake_distributions import FakeEnvironment

from edgelora.registry import Registry

ADAPTER = """
@hookimpl
def edgelora_adapters():
    yield Part(name="lora", target="a:b")
"""
DERIVATIVE = """
from edgelora import Derivative

@hookimpl
def edgelora_derivatives():
    yield Derivative(name="{name}", summary="x", parts={parts})
"""


def warnings_of() -> str:
    return " | ".join(Registry.discover().warnings)


def test_a_listing_without_oddities_warns_of_nothing():
    assert Registry.discover().warnings == ()


def test_a_name_that_two_plugins_use_is_told_with_what_recipes_must_write(environment: FakeEnvironment):
    environment.install_module("other", ADAPTER)
    assert "the adapter lora is offered by lora and other, so recipes must write lora:lora or other:lora" in (
        warnings_of()
    )


def test_a_derivative_of_a_name_in_use_is_told(environment: FakeEnvironment):
    environment.install_module("other", DERIVATIVE.format(name="qlora", parts={"adapter": "lora:lora"}))
    assert "the derivative qlora is offered by other and qlora" in warnings_of()


def test_a_derivative_of_a_part_that_nobody_offers_is_told(environment: FakeEnvironment):
    parts = {"adapter": {"name": "gone", "rank": 4}, "evaluators": ["loss"]}
    environment.install_module("other", DERIVATIVE.format(name="lost", parts={"adapter": parts["adapter"]}))
    assert "the derivative lost of other needs the adapter gone, which no plugin offers" in warnings_of()
