"""Every row of the table "A plugin's life", and how parts are found by name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from fake_distributions import FakeEnvironment

from edgelora import Derivative, Part, hookimpl
from edgelora.errors import AmbiguousPart, PartNotFound
from edgelora.registry import Registry
from edgelora.registry.status import PluginStatus


def status_of(name: str, registry: Registry | None = None) -> PluginStatus:
    (status,) = [each for each in (registry or Registry.discover()).plugins if each.name == name]
    return status


def assert_broken(status: PluginStatus, cause: str, fix: str) -> None:
    assert status.state == "broken"
    assert cause in status.cause
    assert fix in status.fix
    assert not status.parts and not status.derivatives


def test_a_first_party_plugin_is_ready_and_named_with_its_distribution() -> None:
    status = status_of("lora")
    assert (status.state, status.distribution, status.module) == (
        "ready",
        "edgelora",
        "edgelora_plugins.lora",
    )
    assert status.cause == status.fix == ""
    assert [found.qualified_name for found in status.parts] == ["lora:lora"]


def test_a_third_party_plugin_is_found_by_its_entry_point(environment: FakeEnvironment) -> None:
    environment.install_adapter("hydra", distribution="edgelora-hydra")
    registry = Registry.discover()
    found = registry.part("adapter", "hydra")
    assert (found.plugin, found.distribution, found.version) == ("hydra", "edgelora-hydra", "1.0")
    assert registry.derivative("hydra").derivative.parts == {"adapter": "hydra"}
    assert registry.part("adapter", "hydra:hydra") == found


def test_an_import_error_breaks_that_plugin_only(environment: FakeEnvironment) -> None:
    environment.install_module("sad", "import a_package_nobody_has")
    environment.install_adapter("glad")
    registry = Registry.discover()
    assert_broken(
        status_of("sad", registry), "needs the module a_package_nobody_has", "install a_package_nobody_has"
    )
    assert "EDGELORA_BLOCK=sad" in status_of("sad", registry).fix
    assert status_of("glad", registry).state == "ready"


def test_a_plugin_whose_module_is_gone_is_broken(environment: FakeEnvironment) -> None:
    environment.install("ghost-dist", {"ghost": "fake_ghost_gone"})
    assert_broken(
        status_of("ghost"), "its module fake_ghost_gone is gone", "reinstall or uninstall ghost-dist"
    )


def test_a_plugin_whose_attribute_is_gone_is_broken(environment: FakeEnvironment) -> None:
    environment.install("ghost", {"ghost": "fake_ghost:plugin"}, modules={"fake_ghost": ""})
    assert_broken(status_of("ghost"), "has no attribute 'plugin'", "upgrade ghost")


def test_a_plugin_that_calls_sys_exit_is_broken(environment: FakeEnvironment) -> None:
    environment.install_module("quitter", "import sys\nsys.exit(3)")
    assert_broken(status_of("quitter"), "called sys.exit(3)", "tell the author of quitter")


def test_a_plugin_with_a_syntax_error_is_broken(environment: FakeEnvironment) -> None:
    environment.install_module("typo", "def (")
    assert_broken(status_of("typo"), "SyntaxError", "upgrade typo")


def test_ctrl_c_while_a_plugin_loads_still_stops_the_program(environment: FakeEnvironment) -> None:
    environment.install_module("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry.discover()


def test_a_misspelt_hook_is_broken_with_did_you_mean(environment: FakeEnvironment) -> None:
    environment.install_module("typo", "@hookimpl\ndef edgelora_adaptors(): return []")
    assert_broken(status_of("typo"), "there is no hook edgelora_adaptors", "did you mean edgelora_adapters?")


def test_an_unknown_hook_marked_optional_is_left_to_newer_versions(environment: FakeEnvironment) -> None:
    environment.install_module(
        "early",
        """
        @hookimpl(optionalhook=True)
        def edgelora_samplers(): return []
        @hookimpl
        def edgelora_adapters(): return []
        """,
    )
    assert status_of("early").state == "ready"


@pytest.mark.parametrize("arguments", ["config", "config=None", "*, config", "**options"])
def test_a_hook_with_arguments_is_broken(environment: FakeEnvironment, arguments: str) -> None:
    environment.install_module("arg", f"@hookimpl\ndef edgelora_adapters({arguments}): return []")
    assert_broken(status_of("arg"), "edgelora_adapters takes no arguments", "write def edgelora_adapters():")


@pytest.mark.parametrize("kind", ["wrapper", "hookwrapper"])
def test_a_wrapper_is_refused(environment: FakeEnvironment, kind: str) -> None:
    environment.install_module("nosy", f"@hookimpl({kind}=True)\ndef edgelora_adapters():\n    yield")
    assert_broken(status_of("nosy"), "is a wrapper", "write @hookimpl without it")


def test_a_hook_without_its_mark_is_broken(environment: FakeEnvironment) -> None:
    environment.install_module("bare", "def edgelora_adapters(): return []")
    assert_broken(status_of("bare"), "edgelora_adapters is not marked as a hook", "@hookimpl")


def test_a_plugin_without_any_hook_is_broken(environment: FakeEnvironment) -> None:
    environment.install_module("empty", "")
    assert_broken(status_of("empty"), "implements no hook", "edgelora_adapters")


def test_a_hook_that_raises_breaks_its_plugin_and_offers_nothing(environment: FakeEnvironment) -> None:
    environment.install_module(
        "half",
        """
        @hookimpl
        def edgelora_quantizers(): return [Part(name="half", target="a:b")]
        @hookimpl
        def edgelora_adapters():
            yield Part(name="half", target="a:b")
            raise RuntimeError("no luck")
        """,
    )
    registry = Registry.discover()
    assert_broken(status_of("half", registry), "RuntimeError: no luck", "upgrade half")
    assert "fake_half.py:" in status_of("half", registry).cause
    with pytest.raises(PartNotFound):
        registry.part("quantizer", "half")


def test_a_refused_plugin_leaves_nothing_registered(environment: FakeEnvironment) -> None:
    environment.install_module("half", "@hookimpl\ndef edgelora_adapters(): raise ValueError")
    registry = Registry.discover()
    assert not registry._manager.has_plugin("half")
    assert all(
        implementation.plugin_name != "half"
        for implementation in registry._manager.hook.edgelora_adapters.get_hookimpls()
    )


def test_hooks_may_be_generators_and_may_return_none(environment: FakeEnvironment) -> None:
    environment.install_module(
        "lazy",
        """
        @hookimpl
        def edgelora_adapters():
            yield Part(name="lazy", target="a:b")
        @hookimpl
        def edgelora_quantizers(): return None
        """,
    )
    assert [found.part.name for found in status_of("lazy").parts] == ["lazy"]


def test_a_generator_without_end_is_broken(environment: FakeEnvironment) -> None:
    environment.install_module(
        "endless", "@hookimpl\ndef edgelora_adapters():\n    while True: yield Part(name='a', target='a:b')"
    )
    assert_broken(status_of("endless"), "more than 1000", "return a finite list")


def test_a_plugin_may_be_an_object() -> None:
    class Plugin:
        @hookimpl
        def edgelora_adapters(self) -> list[Part]:
            return [Part(name="mine", target="a:b")]

    registry = Registry.from_modules({"mine": Plugin()})
    assert registry.part("adapter", "mine").plugin == "mine"


@pytest.mark.parametrize(
    ("returned", "cause", "fix"),
    [
        ("Part(name='a', target='a:b')", "returned Part, not a list", "write return [...]"),
        ("'a'", "returned str, not a list", "write return [...]"),
        ("['a']", "'a', which is not a Part", "return edgelora.Part objects"),
        ("[Part(name='My_Part', target='a:b')]", "'My_Part': a name is made of", "rename it"),
        (
            "[Part(name='a', target='a.b')]",
            "the target 'a.b' is not of the form",
            "my_plugin.layer:MyAdapter",
        ),
        ("[Part(name='a', target='a:b', options=dict)]", "not a subclass of Options", "edgelora.Options"),
        (
            "[Part(name='a', target='a:b', options=Options())]",
            "not a subclass of Options",
            "name or pass the class",
        ),
        (
            "[Part(name='a', target='a:b', options='a')]",
            "'a' are not of the form",
            "my_plugin.options:MyOptions",
        ),
        ("[Part(name='a', target='a:b', options=Named)]", "cannot be called 'name'", "rename the option"),
        ("[Part(name='a', target='a:b', options=Loose)]", "lets unknown options pass", "remove extra="),
        ("[Part(name='a', target='a:b')] * 2", "offers two adapters 'a'", "another name"),
        ("[Part(name='a', target='a:b', abilities=('Lowrank',))]", "no ability 'Lowrank'", "'LowRank'"),
        ("[Part(name='a', target='a:b', refuses={'nf4': 'no'})]", "'nf4', which is not of", "quantizer:nf4"),
        ("[Part(name='a', target='a:b', refuses={'Lowrank': 'no'})]", "and no ability", "LowRank"),
    ],
)
def test_a_malformed_part_breaks_its_plugin(
    environment: FakeEnvironment, returned: str, cause: str, fix: str
) -> None:
    environment.install_module(
        "odd",
        f"""
        class Named(Options):
            name: str = ""
        class Loose(Options, extra="allow"):
            pass
        @hookimpl
        def edgelora_adapters(): return {returned}
        """,
    )
    assert_broken(status_of("odd"), cause, fix)


@pytest.mark.parametrize(
    ("returned", "cause", "fix"),
    [
        ("['a']", "which is not a Derivative", "return edgelora.Derivative"),
        ("[Derivative(name='a b')]", "a name is made of", "rename it"),
        ("[Derivative(name='a')] * 2", "two derivatives 'a'", "rename one"),
        ("[Derivative(name='a', parts=[1])]", "parts is not a mapping", "'adapter'"),
        ("[Derivative(name='a', parts={'adaptor': 'x'})]", "no kind of part 'adaptor'", "'adapter'?"),
        ("[Derivative(name='a', parts={'adapter': {'rank': 1}})]", "names no part", "'name': ..."),
    ],
)
def test_a_malformed_derivative_breaks_its_plugin(
    environment: FakeEnvironment, returned: str, cause: str, fix: str
) -> None:
    environment.install_module("odd", f"@hookimpl\ndef edgelora_derivatives(): return {returned}")
    assert_broken(status_of("odd"), cause, fix)


def test_one_name_from_two_distributions_is_a_conflict_and_neither_is_imported(
    environment: FakeEnvironment,
) -> None:
    environment.install_adapter("twin", distribution="first-dist")
    environment.install_adapter("twin", distribution="second-dist")
    twins = [status for status in Registry.discover().plugins if status.name == "twin"]
    assert [twin.state for twin in twins] == ["conflict", "conflict"]
    for twin in twins:
        assert "first-dist" in twin.cause and "second-dist" in twin.cause
        assert twin.fix == "uninstall one of first-dist, second-dist"
        assert twin.module not in sys.modules


def test_a_first_party_name_stays_first_party(environment: FakeEnvironment) -> None:
    environment.install_adapter("lora", distribution="another-lora")
    registry = Registry.discover()
    ours, theirs = sorted(
        (status for status in registry.plugins if status.name == "lora"),
        key=lambda each: each.state != "ready",
    )
    assert (ours.state, ours.distribution) == ("ready", "edgelora")
    assert (theirs.state, theirs.distribution) == ("conflict", "another-lora")
    assert "belongs to edgelora" in theirs.cause and "uninstall another-lora" in theirs.fix
    assert registry.part("adapter", "lora").distribution == "edgelora"


def test_a_part_name_of_two_plugins_must_be_qualified(environment: FakeEnvironment) -> None:
    environment.install_adapter("a", part="hydra")
    environment.install_adapter("b", part="hydra")
    registry = Registry.discover()
    assert registry.part("adapter", "a:hydra").plugin == "a"
    assert registry.derivative("b:hydra").plugin == "b"
    with pytest.raises(AmbiguousPart) as caught:
        registry.part("adapter", "hydra")
    assert caught.value.problem == "2 plugins offer an adapter 'hydra'"
    assert caught.value.fix == "write one of a:hydra, b:hydra"
    with pytest.raises(AmbiguousPart, match="2 plugins offer a derivative 'hydra'"):
        registry.derivative("hydra")


def test_a_newer_hook_api_is_broken_with_what_to_do(environment: FakeEnvironment) -> None:
    environment.install_module("new", "edgelora_api = 2\n@hookimpl\ndef edgelora_wonders(a): return []")
    status = status_of("new")
    assert status.cause == "needs hook API 2, this edgelora supports 1"
    assert "upgrade edgelora" in status.fix


@pytest.mark.parametrize("value", ["'1'", "0", "True", "None"])
def test_a_hook_api_that_is_no_number_is_broken(environment: FakeEnvironment, value: str) -> None:
    environment.install_module(
        "odd", f"edgelora_api = {value}\n@hookimpl\ndef edgelora_adapters(): return []"
    )
    assert_broken(status_of("odd"), "not a number from 1", "write edgelora_api = 1")


def test_a_name_that_is_not_found_comes_with_known_names_and_plugins_that_did_not_load(
    environment: FakeEnvironment,
) -> None:
    environment.install_module("sad", "import a_package_nobody_has")
    with pytest.raises(PartNotFound) as caught:
        Registry.discover().part("quantizer", "nf5")
    assert "no plugin offers a quantizer 'nf5'; known: codebook, fp4, int8, nf2, " in caught.value.problem
    assert "plugin sad (sad) is broken: needs the module a_package_nobody_has" in caught.value.problem
    assert caught.value.fix == "did you mean 'nf4'?"
    assert caught.value.exit_code == 4


def test_a_name_of_a_broken_plugin_comes_with_the_fix_of_that_plugin(environment: FakeEnvironment) -> None:
    environment.install_module("hydra", "import a_package_nobody_has")
    with pytest.raises(PartNotFound) as caught:
        Registry.discover().derivative("hydra")
    assert caught.value.fix == status_of("hydra").fix


def test_a_part_asked_of_the_wrong_plugin_comes_with_the_right_one() -> None:
    with pytest.raises(PartNotFound) as caught:
        Registry.discover().part("adapter", "qlora:lora")
    assert caught.value.fix == "write lora:lora"


class Library:
    """Offers what a library has, under the library's names."""

    @hookimpl
    def edgelora_adapters(self) -> list[Part]:
        return [Part(name=name, target="a:b", qualified_only=True) for name in ("lora", "soft-prompt")]

    @hookimpl
    def edgelora_derivatives(self) -> list[Derivative]:
        return [Derivative("lora", parts={"adapter": "lora"}, qualified_only=True)]


class Own:
    @hookimpl
    def edgelora_adapters(self) -> list[Part]:
        return [Part(name="lora", target="a:b")]

    @hookimpl
    def edgelora_derivatives(self) -> list[Derivative]:
        return [Derivative("lora", parts={"adapter": "lora"})]


def test_names_of_a_library_make_no_bare_name_ambiguous() -> None:
    registry = Registry.from_modules({"library": Library(), "own": Own()})
    assert registry.part("adapter", "lora").plugin == registry.derivative("lora").plugin == "own"
    assert registry.part("adapter", "library:lora").plugin == "library"
    assert registry.derivative("library:lora").plugin == "library"
    assert not registry.warnings
    with pytest.raises(
        PartNotFound, match="no plugin offers an adapter 'soft-prompt'; known: lora"
    ) as caught:
        registry.part("adapter", "soft-prompt")
    assert caught.value.fix == "write library:soft-prompt"


@pytest.mark.parametrize("name", ["library:SOFT_PROMPT", "library:Soft-Prompt"])
def test_a_name_may_be_spelled_in_capitals_and_with_underscores(name: str) -> None:
    registry = Registry.from_modules({"library": Library()})
    assert registry.part("adapter", name).part.name == "soft-prompt"


def test_an_unknown_name_without_neighbours_points_to_the_list() -> None:
    with pytest.raises(PartNotFound) as caught:
        Registry.discover().part("adapter", "zzzzzz")
    assert "edgelora plugins list" in caught.value.fix


def test_a_plugin_that_imports_a_heavy_package_is_flagged(
    environment: FakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    (environment.folder / "torch.py").write_text("")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    environment.install_module("fat", "import torch\n@hookimpl\ndef edgelora_adapters(): return []")
    try:
        registry = Registry.discover(only=["fat"])
    finally:
        sys.modules.pop("torch", None)
    status = status_of("fat", registry)
    assert status.state == "ready" and status.imports_heavy
    assert "fat imports torch when merely listed" in status.warning
    assert status.warning in registry.warnings


def test_blocked_plugins_are_not_imported(
    environment: FakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.install_adapter("alpha")
    environment.install_adapter("beta")
    monkeypatch.setenv("EDGELORA_BLOCK", "alpha, beta")
    registry = Registry.discover()
    for name in ("alpha", "beta"):
        status = status_of(name, registry)
        assert status.state == "blocked"
        assert (status.cause, status.fix) == (
            "EDGELORA_BLOCK names it",
            f"remove {name} from EDGELORA_BLOCK",
        )
        assert status.module not in sys.modules
    assert status_of("lora", registry).state == "ready"


def test_only_the_chosen_plugins_are_imported(
    environment: FakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.install_adapter("alpha")
    monkeypatch.setenv("EDGELORA_ONLY", "lora,qlora")
    registry = Registry.discover()
    assert {status.name for status in registry.plugins if status.state == "ready"} == {"lora", "qlora"}
    status = status_of("alpha", registry)
    assert (status.state, status.cause) == ("blocked", "EDGELORA_ONLY does not name it")
    assert status.fix == "add alpha to EDGELORA_ONLY"
    assert status.module not in sys.modules


def test_blocking_wins_over_choosing() -> None:
    registry = Registry.discover(only=["lora", "qlora"], block=["lora"])
    assert {status.name for status in registry.plugins if status.state == "ready"} == {"qlora"}


def test_a_chosen_plugin_that_is_not_installed_is_warned_of() -> None:
    assert "no plugin 'lroa' is installed" in Registry.discover(block=["lroa"]).warnings[0]


def test_one_module_under_two_names_is_loaded_once(environment: FakeEnvironment) -> None:
    environment.install_adapter("alpha")
    environment.install("copy-dist", {"beta": "fake_alpha_alpha"})
    assert status_of("alpha").state == "ready"
    assert_broken(status_of("beta"), "is the same module as plugin 'alpha'", "remove one of the entry points")


def test_one_distribution_may_not_declare_a_name_twice(environment: FakeEnvironment) -> None:
    environment.install_adapter("alpha")
    (info,) = environment.folder.glob("*.dist-info")
    (info / "entry_points.txt").write_text("[edgelora]\nalpha = fake_alpha_alpha\nalpha = other\n")
    assert {each.state for each in Registry.discover().plugins if each.name == "alpha"} == {"conflict"}


def test_a_plugin_name_that_recipes_cannot_write_is_broken(environment: FakeEnvironment) -> None:
    environment.install("odd-dist", {"a b": "json"})
    assert_broken(status_of("a b"), "is no plugin name", "reinstall or uninstall odd-dist")


def test_malformed_entry_points_break_their_distribution_only(environment: FakeEnvironment) -> None:
    environment.install_adapter("glad")
    environment.install("sad", {})
    (environment.folder / "sad-1.0.dist-info" / "entry_points.txt").write_text("[edgelora]\nnothing here\n")
    (environment.folder / "noise-1.0.dist-info").mkdir()
    (environment.folder / "noise-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe edgelora")
    registry = Registry.discover()
    assert status_of("glad", registry).state == "ready"
    assert_broken(
        status_of("sad", registry), "its entry_points.txt is malformed", "reinstall or uninstall sad"
    )


def test_what_a_plugin_prints_does_not_reach_stdout(
    environment: FakeEnvironment, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.install_module("loud", "print('hello')\n@hookimpl\ndef edgelora_adapters(): return []")
    Registry.discover()
    printed = capsys.readouterr()
    assert printed.out == "" and "hello" in printed.err


def test_discovery_imports_nothing_heavy_and_nothing_slow() -> None:
    script = (
        "import json, sys; from edgelora.registry import HEAVY, Registry; r = Registry.discover();"
        "slow = (*HEAVY, 'pydantic', 'yaml', 'importlib.metadata');"
        "print(json.dumps([n for n in slow if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
