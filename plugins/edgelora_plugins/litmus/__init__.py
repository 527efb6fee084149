"""The litmus suite: "9.11 or 9.9?" and its kin, on pairs that no training set of the micro base contains."""

from collections.abc import Iterable

from edgelora import Part, hookimpl


@hookimpl
def edgelora_evaluators() -> Iterable[Part]:
    """``litmus``."""
    yield Part(
        name="litmus",
        target="edgelora_plugins.litmus.metrics:Litmus",
        options="edgelora_plugins.litmus.options:LitmusOptions",
        summary="decimals on held-out pairs; versions and sequences retained; Fibonacci, memorised",
        kit={"options": {"samples": 4}},
    )
