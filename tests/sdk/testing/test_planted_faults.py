"""Each check of the kit fails on a plugin with just that fault."""

import sys
from functools import partial

import pytest
import torch
from fake_distributions import FakeEnvironment
from planted_plugin import ADAPTERS, ANY_PART, COMBINERS, EVALUATORS, QUANTIZERS, SCHEDULERS

from edgelora.testing import CONFORMANCE, PluginConformance, check_names, run_check

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
    attributes = {"part": f"planted:{name.lower()}", "quantizers": ("baseline:none",)}
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


SOUND = [("adapter", "SoundlyExported"), ("quantizer", "Inexpressible")]
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


def test_a_scheduler_over_its_budget_is_found(environment):
    kind = type("Over", (CONFORMANCE["rank_scheduler"],), {"part": "baseline:constant", "budget": 1})
    assert run_check(kind, "it_ends_within_its_budget").outcome == "failed"


def test_every_check_has_a_planted_fault():
    found = {check for _, _, check in FAULTS} | set(PLUGINS) | {"it_ends_within_its_budget"}
    every = {name for kind in (PluginConformance, *CONFORMANCE.values()) for name in check_names(kind)}
    assert every - found == set()
