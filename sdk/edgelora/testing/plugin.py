"""What holds for a plugin as a whole, before anything of it is used."""

from __future__ import annotations

import pkgutil
from typing import Any, ClassVar

from edgelora.errors import EdgeloraError
from edgelora.hookspecs import API_VERSION
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import HEAVY, Registry
from edgelora.registry.status import PluginStatus
from edgelora.testing.check import Conformance, require, skip
from edgelora.testing.fresh import list_afresh


class PluginConformance(Conformance):
    """An installed plugin, by the name of its entry point."""

    plugin: ClassVar[str] = ""

    def registry(self) -> Registry:
        """The installed plugins."""
        return self.keep("registry", Registry.discover)

    def status(self) -> PluginStatus:
        """What became of the plugin when it was loaded."""
        name = self.plugin_name()
        found = {status.name: status for status in self.registry().plugins}
        require(
            name in found,
            f"no plugin {name!r} is installed; pip install it, and look at its line under "
            f"[project.entry-points.edgelora] (installed: {', '.join(found)})",
        )
        return found[name]

    def plugin_name(self) -> str:
        """Its entry point's name."""
        require(self.plugin, f'write plugin = "name" in {type(self).__name__}')
        return self.plugin

    def listed(self) -> dict[str, Any]:
        """What became of the plugin in a fresh process that listed it alone."""
        return self.keep("listed", lambda: list_afresh(self.plugin_name()))

    def test_it_loads_as_ready(self) -> None:
        """The registry admits it, in this process and in a fresh one."""
        status = self.status()
        require(status.state == "ready", f"the plugin is {status.state}: {status.cause}; to do: {status.fix}")
        listed = self.listed()
        require(
            listed["state"] == "ready",
            f"in a fresh process the plugin is {listed['state']}: {listed['cause']}",
        )

    def test_listing_it_imports_nothing_heavy(self) -> None:
        """Neither torch nor its like is in ``sys.modules`` of a fresh process that has listed the plugin."""
        heavy = self.listed()["heavy"]
        require(
            not heavy,
            f"listing the plugin imports {', '.join(heavy)} (none of {', '.join(HEAVY)} may be): move "
            "those imports to the module that Part.target names, and name options by string",
        )

    def test_its_hook_api_is_one_this_edgelora_has(self) -> None:
        """``edgelora_api`` in its module, 1 where it is missing."""
        status = self.status()
        needed = getattr(pkgutil.resolve_name(status.module), "edgelora_api", 1)
        require(
            type(needed) is int and 1 <= needed <= API_VERSION,
            f"edgelora_api is {needed!r}; write a number from 1 to {API_VERSION}, or upgrade edgelora",
        )

    def test_each_derivative_makes_a_plan(self) -> None:
        """``derivative: NAME`` alone is a recipe: names resolve, options validate, parts fit together."""
        derivatives = self.status().derivatives
        if not derivatives:
            skip("it offers no derivative")
        for found in derivatives:
            try:
                make_plan(make_recipe({"derivative": found.qualified_name, "base": "micro"}), self.registry())
            except EdgeloraError as error:
                raise AssertionError(
                    f"derivative {found.derivative.name!r} makes no plan: {error.problem}; to do: {error.fix}"
                ) from error

    def test_each_derivative_has_a_summary_of_one_line(self) -> None:
        """It stands in ``edgelora plugins show``."""
        derivatives = [found.derivative for found in self.status().derivatives]
        if not derivatives:
            skip("it offers no derivative")
        wrong = [each.name for each in derivatives if not is_one_line(each.summary)]
        require(not wrong, f"write a summary of one line for derivative {', '.join(wrong)}")


def is_one_line(text: str) -> bool:
    """Whether a summary says something, in one line."""
    return bool(text.strip()) and text == text.strip() and "\n" not in text
