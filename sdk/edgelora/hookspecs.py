"""The contract between edgelora and its plugins.

A plugin is a module registered by an entry point of the group ``edgelora``. It implements any of the hooks
below. Hooks take no arguments, and every plugin's answers are collected: a user picks a part by name, so no
plugin can take another's place by being registered later. A plugin that needs a hook API newer than
``API_VERSION`` says so with ``edgelora_api = 2`` in its module and is reported as broken, not run.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from edgelora.parts import Derivative, Part

PROJECT = "edgelora"
ENTRY_POINT_GROUP = "edgelora"
API_VERSION = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def edgelora_quantizers() -> Iterable[Part]:
    """Parts whose objects meet `edgelora.protocols.Quantizer`."""
    return ()


@hookspec
def edgelora_adapters() -> Iterable[Part]:
    """Parts whose objects meet `edgelora.protocols.Adapter`."""
    return ()


@hookspec
def edgelora_rank_schedulers() -> Iterable[Part]:
    """Parts whose objects meet `edgelora.protocols.RankScheduler`."""
    return ()


@hookspec
def edgelora_loss_combiners() -> Iterable[Part]:
    """Parts whose objects meet `edgelora.protocols.LossCombiner`."""
    return ()


@hookspec
def edgelora_evaluators() -> Iterable[Part]:
    """Parts whose objects meet `edgelora.protocols.Evaluator`."""
    return ()


@hookspec
def edgelora_derivatives() -> Iterable[Derivative]:
    """Published methods, spelled as parts."""
    return ()
