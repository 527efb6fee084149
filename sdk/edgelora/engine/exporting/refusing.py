"""Why a tool cannot have an adapter, and what its user can do instead."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edgelora.capabilities import ApproximatelyLowRank
from edgelora.engine.exporting.source import Source
from edgelora.errors import ExportUnsupported
from edgelora.manifest.lora_shapes import is_plain_lora
from edgelora.plan.able import abilities_of, have_factors, is_folded
from edgelora.registry import Registry


@dataclass(frozen=True, slots=True)
class Reader:
    """The tool an export is for.

    Attributes:
        takes: What it computes, as the reason of a refusal.
        then: What makes a merged model one that it reads.
    """

    takes: str
    then: str = ""


PEFT = Reader("stock PEFT computes low-rank products and, over an unquantized base, methods of its own")
LLAMA_CPP = Reader(
    "llama.cpp applies low-rank products beside linears and nothing else",
    then=", then llama.cpp's convert_hf_to_gguf.py DIR",
)


def refusal(
    source: Source, registry: Registry, reader: Reader, why: str, ways: Collection[str] = ()
) -> ExportUnsupported:
    """That ``reader`` cannot have an adapter, with what can be done by what its part is able to do.

    Args:
        source: The adapter.
        registry: The installed plugins.
        reader: Who is to have it.
        why: What the adapter does that ``reader`` does not.
        ways: In which `edgelora.capabilities.ApproximatelyLowRank` layers come near it, where they are known.
    """
    return ExportUnsupported(f"{why}, and {reader.takes}", fix=instead(source, registry, reader, ways))


def instead(source: Source, registry: Registry, reader: Reader, ways: Collection[str] = ()) -> str:
    """What to do with an adapter that ``reader`` cannot have; arguments as in `refusal`."""
    # Published as plain LoRA, it needs no plugin to be merged; where one is missing, merging says so.
    is_plain = is_plain_lora(source.component)
    abilities = None if is_plain else abilities_of(source.component, registry)
    place = source.folder
    merge = f"fold it into its base, as a model of its own: edgelora merge --adapter {place} --out DIR"
    if abilities is None or is_folded(abilities):
        return merge + reader.then
    if ApproximatelyLowRank.__name__ in abilities:
        return f"{merge} --approximate {' | '.join(ways) or 'WAY'}, which tells the error{reader.then}"
    factors = have_factors(str(place), source.component, registry)
    return f"{factors}; as it is, it cannot be merged, but applied: edgelora generate --adapter {place}"
