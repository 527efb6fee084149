"""``edgelora plugins check``: the conformance kit on an installed plugin, as a report."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from edgelora_cli.commands import Command
from edgelora_cli.console import emit, note
from edgelora_cli.plugin_named import installed_plugin
from edgelora_cli.plugin_report import Report, Section, tell

if TYPE_CHECKING:
    from edgelora.registry.status import PluginStatus
    from edgelora.testing import CheckResult, PluginConformance


class First(NamedTuple):
    """The check on which the others rest, and why they are left out where it fails."""

    name: str
    otherwise: str


FIRST_OF_A_PLUGIN = First("it_loads_as_ready", "the plugin does not load")
FIRST_OF_A_PART = First("it_can_be_built", "the part cannot be built")


@click.command(
    cls=Command,
    examples="""
    edgelora plugins check lora
    edgelora plugins check litmus --set litmus.samples=5
    edgelora plugins check mine --kit mine.steps=40
    edgelora plugins check mine --skip "it starts as the base=it starts at a decomposition"
    edgelora plugins check mine --json
    """,
)
@click.argument("name")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="PART.OPTION=VALUE",
    help="Check a part with another option than its default (repeatable).",
)
@click.option(
    "--kit",
    "settings",
    multiple=True,
    metavar="PART.SETTING=VALUE",
    help="Another setting of the kit for a part: steps, budget, quantizers, learning_rate, "
    "largest_relative_error, tolerance, tasks or quantizer, by kind (repeatable).",
)
@click.option(
    "--skip",
    "skipped",
    multiple=True,
    metavar="CHECK=REASON",
    help="Leave a check out, of all parts or as PART.CHECK, with the reason for the report (repeatable).",
)
@click.pass_context
def check(
    ctx: click.Context,
    name: str,
    changes: tuple[str, ...],
    settings: tuple[str, ...],
    skipped: tuple[str, ...],
) -> None:
    """Run the conformance kit on every part of the plugin NAME.

    Exit code 10 when a check fails.
    """
    options, kit = _parse_changes(changes, "--set"), _parse_changes(settings, "--kit")
    reasons = _parse_reasons(skipped)
    plugin = installed_plugin(name, "check")
    started = time.perf_counter()
    _refuse_unknown_parts(plugin, {"--set": options, "--kit": kit})
    _refuse_unknown_checks(reasons)
    _refuse_unknown_settings(plugin, kit)
    _refuse_wrong_options(plugin, options)
    sections = []
    for title, checked in _checked(plugin, options, kit):
        note(f"checking {title}")
        sections.append(Section(title, tuple(_run(checked, reasons)), _settings(checked)))
    report = Report(plugin, tuple(sections), time.perf_counter() - started)
    emit(report.document(), report.text())
    if report.failed:
        ctx.exit(tell(report))


def _settings(checked: type[PluginConformance]) -> dict[str, Any]:
    """Options and settings of the kit that are not the kit's own, the plugin's included."""
    from edgelora.testing import changed_settings

    found = changed_settings(checked)
    return {**found.pop("options", {}), **found}


def _checked(
    plugin: PluginStatus,
    options: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, type[PluginConformance]]]:
    """What to check: the plugin, then each part, without what was checked with the plugin."""
    import torch

    from edgelora.testing import PluginConformance, conformance_of

    # Models are tiny: threads would only wait for each other.
    torch.set_num_threads(1)
    origin = f"{plugin.distribution} {plugin.version}".strip()
    yield f"plugin {plugin.name} ({origin})", type("Checked", (PluginConformance,), {"plugin": plugin.name})
    for found in plugin.parts:
        if found.part.unusable:
            continue
        title = f"{found.kind.replace('_', ' ')} {found.part.name}"
        kit = settings.get(found.part.name, {})
        yield title, conformance_of(found, options=options.get(found.part.name, {}), **kit)


def _run(checked: type[PluginConformance], reasons: Mapping[str, str]) -> Iterator[CheckResult]:
    from edgelora.testing import CheckResult, PartConformance, PluginConformance, check_names, run_check

    first = FIRST_OF_A_PART if issubclass(checked, PartConformance) else FIRST_OF_A_PLUGIN
    found = run_check(checked, first.name)
    yield found
    blocked = first.otherwise if found.outcome == "failed" else ""
    for name in check_names(checked):
        if name == first.name:
            continue
        if issubclass(checked, PartConformance) and hasattr(PluginConformance, f"test_{name}"):
            continue
        part = checked.part.rpartition(":")[2] if issubclass(checked, PartConformance) else checked.plugin
        reason = blocked or reasons.get(name) or reasons.get(f"{part}.{name}")
        yield CheckResult(name, "skipped", reason) if reason else run_check(checked, name)


def _refuse_wrong_options(plugin: PluginStatus, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """What the user set is the user's fault; what a part requires is its author's, and a finding."""
    from edgelora.errors import OptionsError, PluginBug
    from edgelora.plan.part import plan_part

    for found in plugin.parts:
        if chosen := changes.get(found.part.name):
            try:
                plan_part(found, {**found.part.kit.get("options", {}), **chosen}).build()
            except PluginBug:
                continue
            except OptionsError as error:
                raise OptionsError(
                    error.problem, fix=f"{error.fix}: change --set {found.part.name}"
                ) from error


def _refuse_unknown_parts(plugin: PluginStatus, changes: Mapping[str, Mapping[str, Any]]) -> None:
    names = [found.part.name for found in plugin.parts]
    for option, parts in changes.items():
        if strange := [name for name in parts if name not in names]:
            offered = ", ".join(names) or "none"
            raise click.UsageError(
                f"{option}: plugin {plugin.name} offers no part {strange[0]!r}; it offers {offered}"
            )


def _refuse_unknown_settings(plugin: PluginStatus, settings: Mapping[str, Mapping[str, Any]]) -> None:
    from edgelora.testing import CONFORMANCE, settings_of

    for found in plugin.parts:
        known = [name for name in settings_of(CONFORMANCE[found.kind]) if name != "options"]
        if strange := [name for name in settings.get(found.part.name, {}) if name not in known]:
            kind = found.kind.replace("_", " ")
            raise click.UsageError(
                f"--kit: no setting {strange[0]!r} of {kind} {found.part.name}; it has {', '.join(known)}"
            )


def _refuse_unknown_checks(reasons: Iterable[str]) -> None:
    from edgelora.testing import CONFORMANCE, check_names

    known = {name for kind in CONFORMANCE.values() for name in check_names(kind)}
    if strange := [name for name in reasons if name.rpartition(".")[2] not in known]:
        sentences = {name.replace("_", " ") for name in known}
        wrong = strange[0].replace("_", " ")
        near = difflib.get_close_matches(wrong.rpartition(".")[2], sentences, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise click.UsageError(
            f"--skip: there is no check {wrong!r}; {hint}there are: {', '.join(sorted(sentences))}"
        )


def _parse_changes(changes: Iterable[str], option: str) -> dict[str, dict[str, Any]]:
    import yaml

    found: dict[str, dict[str, Any]] = {}
    for change in changes:
        place, equals, value = change.partition("=")
        part, dot, name = place.strip().partition(".")
        if not (equals and dot and part and name):
            form = {"--set": "PART.OPTION=VALUE", "--kit": "PART.SETTING=VALUE"}[option]
            raise click.UsageError(f"{option} {change!r} is not of the form {form}")
        try:
            found.setdefault(part, {})[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise click.UsageError(f"{option} {change!r}: {value!r} is no value in YAML") from error
    return found


def _parse_reasons(skipped: Iterable[str]) -> dict[str, str]:
    reasons = {}
    for each in skipped:
        name, _, reason = each.partition("=")
        if not name.strip() or not reason.strip():
            raise click.UsageError(f"--skip {each!r} is not of the form CHECK=REASON")
        reasons[name.strip().replace(" ", "_")] = reason.strip()
    return reasons
