"""Each check of the kit fails on a plugin with just that fault."""

import sys
from functools import partial

import pytest
import torch
from fake_distributions import FakeEnvironment
from planted_plugin import ADAPTERS, ANY_PART, COMBINERS, EVALUATORS, QUANTIZERS, SCHEDULERS

from edgelora.registry import Registry
from edgelora.testing import (
    CONFORMANCE,
    PluginConformance,
    changed_settings,
    check_names,
    conformance_of,
    run_check,
)
from edgelora.testing.quantizer import allowed_error

FAULTS = [
    *(("adapter", name, check) for name, check in ADAPTERS.items()),
    *(("quantizer", name, check) for name, check in QUANTIZERS.items()),
    *(("rank_scheduler", name, check) for name, check in SCHEDULERS.items()),
    *(("loss_combiner", name, check) for name, check in {**COMBINERS, **ANY_PART}.items()),
    *(("evaluator", name, check) for name, check in EVALUATORS.items()),
    ("evaluator", "Random", "the_random_state_is_left_as_found"),
]
PLUGINS = {
    "it_loads_as_ready": "raise RuntimeError('not today')",
    "listing_it_imports_nothing_heavy": "import torch\nfrom edgelora import hookimpl\n",
    "its_hook_api_is_one_this_edgelora_has": "edgelora_api = 'one'\n",
    "each_derivative_makes_a_plan": """
from edgelora import Derivative, hookimpl

@hookimpl
def edgelora_derivatives():
    yield Derivative(name="lost", summary="lost", parts={"adapter": "nowhere"})
""",
    "each_derivative_has_a_summary_of_one_line": """
from edgelora import Derivative, hookimpl

@hookimpl
def edgelora_derivatives():
    yield Derivative(name="mute", parts={"adapter": "lora:lora"})
""",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    made = FakeEnvironment(tmp_path_factory.mktemp("faults") / "site-packages")
    made.install("planted", {"planted": "planted_plugin"})
    for number, source in enumerate(PLUGINS.values()):
        made.install(
            f"whole{number}", {f"whole{number}": f"whole{number}"}, modules={f"whole{number}": source}
        )
    sys.path.insert(0, str(made.folder))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield made
    torch.set_num_threads(before)
    sys.path.remove(str(made.folder))


def checked(kind, name):
    attributes = {"part": f"planted:{name.lower()}"}
    if kind == "adapter":
        attributes["quantizers"] = ("baseline:none",)
    return type(name, (CONFORMANCE[kind],), attributes)


@pytest.mark.parametrize(("kind", "name", "check"), FAULTS)
def test_the_fault_is_found(environment, kind, name, check):
    result = run_check(checked(kind, name), check)
    assert result.outcome == "failed", result
    assert result.detail


@pytest.mark.parametrize("kind", CONFORMANCE)
def test_the_same_part_without_a_fault_passes_every_check(environment, kind):
    sound = checked(kind, "sound")
    results = [run_check(sound, check) for check in check_names(sound)]
    assert [result for result in results if result.outcome == "failed"] == []


@pytest.mark.parametrize("check", PLUGINS)
def test_the_fault_of_a_whole_plugin_is_found(environment, check):
    number = list(PLUGINS).index(check)
    result = run_check(type("Whole", (PluginConformance,), {"plugin": f"whole{number}"}), check)
    assert result.outcome == "failed", result


SOUND = [
    ("adapter", "SoundlyExported"),
    ("adapter", "Nested"),
    ("adapter", "Relays"),
    ("quantizer", "Inexpressible"),
    ("quantizer", "two-bits"),
    ("rank_scheduler", "nests"),
    ("loss_combiner", "worst-task"),
]
"""Parts out of the ordinary, without a fault."""


@pytest.mark.parametrize(("kind", "name"), SOUND)
def test_a_sound_part_out_of_the_ordinary_passes_every_check(environment, kind, name):
    sound = checked(kind, name)
    assert [
        each for each in map(partial(run_check, sound), check_names(sound)) if each.outcome == "failed"
    ] == []


def test_stock_peft_is_asked_where_an_adapter_is_published_for_it(environment):
    for name in ("sound", "soundlyexported"):
        assert run_check(checked("adapter", name), "stock_peft_computes_what_is_published").outcome == "ok"


def test_without_peft_the_report_says_that_it_was_not_asked(environment, monkeypatch):
    monkeypatch.setattr("edgelora.testing.adapter_change.find_spec", lambda name: None)
    result = run_check(checked("adapter", "sound"), "stock_peft_computes_what_is_published")
    assert result.outcome == "skipped" and "peft is not installed" in result.detail


@pytest.mark.parametrize(
    ("name", "check", "reason"),
    [
        ("sound", "it_ends_within_its_budget", "promises no budget"),
        ("sound", "its_rank_pattern_is_what_the_layers_have", "says that no rank was changed"),
        ("says-of-plain-layers", "its_rank_pattern_is_what_the_layers_have", "its layers are not"),
    ],
)
def test_what_a_scheduler_does_not_promise_is_skipped_with_the_reason(environment, name, check, reason):
    result = run_check(checked("rank_scheduler", name), check)
    assert result.outcome == "skipped" and reason in result.detail


def test_components_of_nested_layers_are_counted(environment):
    result = run_check(checked("rank_scheduler", "nests"), "its_rank_pattern_is_what_the_layers_have")
    assert (result.outcome, result.detail) == ("ok", "14 components in use")


def test_a_setting_is_the_test_classes_then_the_parts_then_the_kits(environment):
    assert checked("rank_scheduler", "sound")().steps == 12
    assert checked("rank_scheduler", "nests")().steps == 6
    assert type("Mine", (checked("rank_scheduler", "nests"),), {"steps": 9})().steps == 9
    assert changed_settings(checked("rank_scheduler", "nests")) == {"budget": 14, "steps": 6}


def test_an_evaluator_is_tried_over_a_base_of_its_own_plugin_or_as_it_is_told(environment):
    assert conformance_of(part_named("irqlora:code-entropy"))()._quantizer()["name"] == "irqlora:nf4-icq"
    assert conformance_of(part_named("baseline:loss"))()._quantizer()["name"] == "baseline:none"
    assert conformance_of(part_named("litmus:litmus"))()._quantizer()["name"] == "qlora:nf4"
    told = conformance_of(part_named("litmus:litmus"), quantizer="qlora:fp4")
    assert told()._quantizer() == "qlora:fp4"


def part_named(name):
    return Registry.discover().part("evaluator", name)


def test_what_takes_long_fails_once(environment):
    tries = []

    def fail():
        tries.append(1)
        raise RuntimeError("slowly")

    checks = type("Slow", (PluginConformance,), {})()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="slowly"):
            checks.keep("slow", fail)
    assert len(tries) == 1


@pytest.mark.parametrize(("bits", "most"), [(32, 0.06), (8, 0.06), (4.25, 0.158), (2.25, 0.631), (1, 0.7)])
def test_the_error_of_a_quantizer_is_bounded_by_the_bits_it_stores(bits, most):
    assert allowed_error(bits) == pytest.approx(most, abs=1e-3)


def test_every_check_has_a_planted_fault():
    found = {check for _, _, check in FAULTS} | set(PLUGINS)
    every = {name for kind in (PluginConformance, *CONFORMANCE.values()) for name in check_names(kind)}
    assert every - found == set()
