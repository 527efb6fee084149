"""Options are imported when a plan is made, and an options target that is wrong is named with its plugin."""

from __future__ import annotations

import pytest
from fake_distributions import FakeEnvironment

from edgelora import Options, Part
from edgelora.errors import DependencyMissing, EdgeloraError, PluginBug
from edgelora.plan.options import options_model
from edgelora.plan.part import plan_part
from edgelora.registry import Registry
from edgelora.registry.status import FoundPart

SOURCE = """
from edgelora import Options

class BlockOptions(Options):
    block_size: int = 64

class Named(Options):
    name: str = ""

class Noted(Options):
    notes: str = ""

class Loose(Options, extra="allow"):
    pass
"""


def part_with(options: type[Options] | str) -> FoundPart:
    return FoundPart("quantizer", Part("four-bit", "a:b", options), "blocks", "blocks-dist", "1.0")


def put_module(environment: FakeEnvironment, name: str, source: str) -> str:
    (environment.folder / f"{name}.py").write_text(source)
    return name


def test_a_part_without_options_takes_none() -> None:
    found = FoundPart("quantizer", Part("none", "a:b"), "baseline", "edgelora", "0")
    assert options_model(found) is Options


def test_options_may_be_a_class() -> None:
    class Direct(Options):
        rank: int = 1

    assert options_model(part_with(Direct)) is Direct


def test_options_named_by_string_are_imported_and_validated_when_planned(
    environment: FakeEnvironment,
) -> None:
    module = put_module(environment, "fake_block_options", SOURCE)
    planned = plan_part(part_with(f"{module}:BlockOptions"), {"block_size": "32"})
    assert planned.options.model_dump() == {"block_size": 32}


@pytest.mark.parametrize(
    ("target", "problem", "fix"),
    [
        ("fake_odd_options:BlokOptions", "there is no BlokOptions in fake_odd_options, but BlockOptions", ""),
        ("fake_odd_option:BlockOptions", "there is no module fake_odd_option", ""),
        ("fake_odd_options:SOURCE", "options is 3, not a subclass of Options", "derive the options from"),
        ("fake_odd_options:Named", "an option cannot be called 'name'", "rename the option"),
        ("fake_odd_options:Noted", "an option cannot be called 'notes', which is a method of", "rename the"),
        ("fake_odd_options:Loose", "Loose lets unknown options pass", "remove extra="),
        ("fake_failing_options:A", "importing fake_failing_options: NameError", ""),
    ],
)
def test_a_wrong_options_target_is_a_bug_of_its_plugin(
    environment: FakeEnvironment, target: str, problem: str, fix: str
) -> None:
    put_module(environment, "fake_odd_options", f"{SOURCE}\nSOURCE = 3\n")
    put_module(environment, "fake_failing_options", "nobody_defined_this")
    with pytest.raises(PluginBug) as caught:
        options_model(part_with(target))
    assert caught.value.problem.startswith("quantizer 'four-bit' of plugin blocks: ")
    assert problem in caught.value.problem
    assert caught.value.fix.startswith("upgrade blocks-dist (1.0 is installed), or tell its author")
    assert fix in caught.value.fix


def test_options_that_need_a_package_that_is_not_installed_say_which(environment: FakeEnvironment) -> None:
    module = put_module(environment, "fake_needy_options", "import a_package_nobody_has")
    with pytest.raises(DependencyMissing) as caught:
        options_model(part_with(f"{module}:A"))
    assert "quantizer 'four-bit' of plugin blocks needs a_package_nobody_has" in caught.value.problem
    assert caught.value.fix == "install a_package_nobody_has, or see what extras blocks-dist has"


def test_a_wrong_options_target_does_not_break_listing(environment: FakeEnvironment) -> None:
    environment.install_module(
        "odd",
        "@hookimpl\ndef edgelora_quantizers(): return [Part(name='odd', target='a:b', options='nowhere:A')]",
    )
    registry = Registry.discover()
    assert [status.state for status in registry.plugins if status.name == "odd"] == ["ready"]
    with pytest.raises(EdgeloraError, match="quantizer 'odd' of plugin odd: there is no module nowhere"):
        options_model(registry.part("quantizer", "odd"))
