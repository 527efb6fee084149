"""``edgelora plugins``: what is installed, and what did not load and why."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from edgelora.capabilities import ABILITIES
from edgelora.registry import Registry
from edgelora_cli.commands import Group
from edgelora_cli.console import emit, style, table, warn
from edgelora_cli.plugin_check import check
from edgelora_cli.plugin_named import plugin_or_part
from edgelora_cli.plugin_new import new

if TYPE_CHECKING:
    from edgelora.options import Options
    from edgelora.registry.status import FoundPart, PluginStatus


@click.group(cls=Group, short_help="See which derivatives and parts are installed.")
def plugins() -> None:
    """See which derivatives and parts are installed, and what did not load and why.

    EDGELORA_ONLY=a,b loads only these plugins, EDGELORA_BLOCK=a,b all but these.
    """


@plugins.command(
    "list",
    examples="""
    edgelora plugins list
    EDGELORA_ONLY=lora edgelora plugins list --json
    """,
)
def list_command() -> None:
    """List the plugins, their parts and derivatives."""
    registry = Registry.discover()
    found = registry.plugins
    rows = [
        (plugin.name, plugin.state, f"{plugin.distribution} {plugin.version}".strip(), _offers(plugin))
        for plugin in found
    ]
    lines = [table(("plugin", "state", "from", "offers"), rows)] if rows else ["no plugins"]
    for plugin in found:
        if plugin.cause:
            lines.append(f"\n{plugin.name} is {plugin.state}: {plugin.cause}\n  fix: {plugin.fix}")
    for warning in registry.warnings:
        warn(warning)
    document = {"plugins": [_document(plugin) for plugin in found], "warnings": list(registry.warnings)}
    emit(document, "\n".join(lines))


@plugins.command(
    examples="""
    edgelora plugins show qlora
    edgelora plugins show nf4
    edgelora plugins show peft:vera
    """
)
@click.argument("name")
def show(name: str) -> None:
    """Show a plugin, or one part: its derivatives, its parts, what they can do, and each option's default."""
    plugin = plugin_or_part(name)
    document = _document(plugin) | {"abilities": _meanings(plugin), "options": _schemas(plugin)}
    emit(document, _describe(plugin))


plugins.add_command(new)
plugins.add_command(check)


def _offers(plugin: PluginStatus) -> str:
    named = [
        f"derivative {item.derivative.name}"
        for item in plugin.derivatives
        if not item.derivative.qualified_only
    ]
    named += [f"{_words(part)} {part.part.name}" for part in plugin.parts if not part.part.qualified_only]
    counts = Counter(_words(part) for part in plugin.parts if part.part.qualified_only)
    named += [f"{count} {what}s as {plugin.name}:NAME" for what, count in counts.items()]
    return ", ".join(named)


def _words(part: FoundPart) -> str:
    return part.kind.replace("_", " ")


def _document(plugin: PluginStatus) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "state": plugin.state,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.module,
        "cause": plugin.cause,
        "fix": plugin.fix,
        "parts": [
            {
                "kind": part.kind,
                "name": part.part.name,
                "summary": part.part.summary,
                "paper": part.part.paper,
                "abilities": list(part.part.abilities),
                "needs": dict(part.part.needs),
                "refuses": dict(part.part.refuses),
                "unusable": part.part.unusable,
            }
            for part in plugin.parts
        ],
        "derivatives": [
            {
                "name": item.derivative.name,
                "summary": item.derivative.summary,
                "paper": item.derivative.paper,
                "parts": dict(item.derivative.parts),
            }
            for item in plugin.derivatives
        ],
    }


def _schemas(plugin: PluginStatus) -> dict[str, Any]:
    from edgelora.plan.options import options_model

    return {f"{part.kind}:{part.part.name}": options_model(part).model_json_schema() for part in plugin.parts}


def _meanings(plugin: PluginStatus) -> dict[str, str]:
    """What the abilities are that its parts name, in one line each."""
    named: set[str] = set()
    for each in plugin.parts:
        named |= {*each.part.abilities, *each.part.needs, *each.part.refuses}
    told = {name: inspect.getdoc(kind) or "" for name, kind in ABILITIES.items() if name in named}
    return {name: text.partition("\n")[0] for name, text in told.items()}


def _describe(plugin: PluginStatus) -> str:
    from edgelora.plan.options import options_model

    origin = f"{plugin.distribution} {plugin.version}".strip()
    lines = [f"{style(plugin.name, bold=True)}: {plugin.state}, from {origin} ({plugin.module})"]
    if plugin.cause:
        lines += [f"  {plugin.cause}", f"  fix: {plugin.fix}"]
    for item in plugin.derivatives:
        derivative = item.derivative
        lines += ["", _title("derivative", derivative.name, derivative.summary, derivative.paper)]
        lines += [f"  {kind.replace('_', ' ')}: {choice}" for kind, choice in derivative.parts.items()]
    for found in plugin.parts:
        part = found.part
        lines += ["", _title(_words(found), part.name, part.summary, part.paper)]
        lines += [f"  cannot be used: {part.unusable}"] if part.unusable else []
        lines += [f"  is {', '.join(part.abilities)}"] if part.abilities else []
        lines += [f"  needs an adapter that is {ability}: {why}" for ability, why in part.needs.items()]
        lines += [f"  refuses {what}: {why}" for what, why in part.refuses.items()]
        lines += [f"  {line}" for line in _option_lines(options_model(found))]
    if meanings := _meanings(plugin):
        lines += ["", style("abilities", bold=True)]
        lines += [f"  {name}: {meaning}" for name, meaning in meanings.items()]
    return "\n".join(lines)


def _title(kind: str, name: str, summary: str, paper: str) -> str:
    return f"{kind} {style(name, bold=True)}: {summary}{f' ({paper})' if paper else ''}"


def _option_lines(options: type[Options]) -> list[str]:
    lines = []
    for name, field in options.model_fields.items():
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        lines.append(f"{name} = {default}{f'  ({field.description})' if field.description else ''}")
    return lines
