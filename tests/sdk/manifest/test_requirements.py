"""An adapter is refused unless the plugins that rebuild it are there, from whom and as new as it says."""

import pytest

from edgelora.errors import PluginMissing
from edgelora.manifest import Component, DerivativeRef, PartRef, PluginRef
from edgelora.manifest.lora_shapes import misfit_of
from edgelora.manifest.requirements import InstalledPlugin, check_plugins
from edgelora.manifest.tensors import TensorEntry

ACME = {"acme": InstalledPlugin("acme-lora", "1.2.0")}
SITE = "model.layers.0.self_attn.q_proj"
PLAIN = "adapter_model.safetensors"


def component(file: str = "edgelora.safetensors", **config: object) -> Component:
    return Component(
        id="main",
        derivative=DerivativeRef(
            name="hexlora", plugin=PluginRef(name="acme", distribution="acme-lora", version=">=1.2,<2")
        ),
        parts={"adapter": PartRef(name="hex", plugin="acme", distribution="acme-lora", version="1.2.0")},
        config=config,
        files=(file,),
        dtype="F32",
    )


class Adapter:
    """The one member of a manifest that is looked at."""

    def __init__(self, *components: Component) -> None:
        self.components = components


@pytest.mark.parametrize("version", ["1.2.0", "1.9.9", "1.3.0rc1"])
def test_plugin_in_the_range_will_do(version: str) -> None:
    check_plugins(Adapter(component()), {"acme": InstalledPlugin("acme-lora", version)})


@pytest.mark.parametrize("version", ["1.1.9", "2.0.0", "1.2.0rc1"])
def test_other_version_is_refused_naming_both(version: str) -> None:
    with pytest.raises(PluginMissing, match=rf"acme-lora>=1\.2,<2, and {version} is installed") as caught:
        check_plugins(Adapter(component()), {"acme": InstalledPlugin("acme-lora", version)})
    assert caught.value.fix == "pip install 'acme-lora>=1.2,<2'"


@pytest.mark.parametrize("installed", [{}, {"acme": InstalledPlugin("evil-lora", "1.2.0")}])
def test_missing_plugin_is_left_for_a_person_to_install(installed: dict) -> None:
    with pytest.raises(PluginMissing, match="'acme' of acme-lora, which is not installed") as caught:
        check_plugins(Adapter(component()), installed)
    assert caught.value.fix.startswith("if you trust it: pip install")


def naming_a_wheel() -> Adapter:
    plugin = PluginRef(name="acme", distribution="acme-lora", wheel_digest="sha256:" + "a" * 64)
    derivative = DerivativeRef(name="hexlora", plugin=plugin)
    return Adapter(component().model_copy(update={"derivative": derivative}))


def test_plugin_from_another_wheel_is_refused_where_that_is_known() -> None:
    with pytest.raises(PluginMissing, match="acme-lora was installed from sha256:bbb") as caught:
        other = InstalledPlugin("acme-lora", "1.2.0", "sha256:" + "b" * 64)
        check_plugins(naming_a_wheel(), {"acme": other})
    assert caught.value.fix.startswith("install that wheel, if you trust it")
    check_plugins(naming_a_wheel(), {"acme": InstalledPlugin("acme-lora", "1.2.0", "sha256:" + "a" * 64)})
    check_plugins(naming_a_wheel(), ACME)


def test_plain_lora_needs_no_plugin() -> None:
    check_plugins(Adapter(component(PLAIN)), {})
    with pytest.raises(PluginMissing):
        check_plugins(Adapter(component(PLAIN, useDora=True)), {})


def factors(rank: int, width: int = 4) -> dict:
    name = f"base_model.model.{SITE}.lora_"
    return {
        f"{name}A.weight": TensorEntry("F32", (rank, width), 0, 4 * rank * width),
        f"{name}B.weight": TensorEntry("F32", (width, rank), 0, 4 * rank * width),
    }


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"r": 2, "targetModules": [SITE]},
        {"r": 4, "rankPattern": {SITE: 2}},
        {"r": 4, "peftSettings": {"use_x": True}},
    ],
)
def test_tensors_of_the_rank_that_config_gives_fit(config: dict) -> None:
    assert misfit_of(component(PLAIN, **config), {PLAIN: factors(2)}) is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"r": 4}, f"config gives {SITE} the rank 4, not 2"),
        ({"r": 2, "rankPattern": {SITE: 3}}, f"config gives {SITE} the rank 3, not 2"),
        ({"r": 2, "targetModules": ["other"]}, f"targetModules does not name {SITE}"),
    ],
)
def test_tensors_that_contradict_config_are_named(config: dict, reason: str) -> None:
    found = misfit_of(component(PLAIN, **config), {PLAIN: factors(2)})
    assert found is not None and found.endswith(reason)
    assert found.startswith(f"{PLAIN}: base_model.model.{SITE}.lora_A.weight is [2,4]")
