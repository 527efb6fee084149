"""The numbers: subspace similarity of two adapters, and amplification of one over its base."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from edgelora.capabilities import LowRank
from edgelora.engine.adapter_base import base_of
from edgelora.engine.apply import read_tensors
from edgelora.engine.source import source_weights
from edgelora.errors import ExportUnsupported, ModelError, PlanError, TensorsMismatch
from edgelora.layers.subspaces import Amplification, amplification, subspace_similarity
from edgelora.manifest import Component
from edgelora.manifest.base_identity import identify_base
from edgelora.manifest.base_match import check_base
from edgelora.manifest.lora_shapes import is_plain_lora
from edgelora.manifest.requirements import only_component
from edgelora.module_names import is_named
from edgelora.plan.able import abilities_of
from edgelora.protocols import Factors
from edgelora.registry import Registry
from edgelora.signing import check_trusted
from edgelora.transfer import locate_adapter


@dataclass(frozen=True, slots=True)
class SiteSimilarity:
    """φ at one site; see `edgelora.layers.subspaces.subspace_similarity`."""

    site: str
    ranks: tuple[int, int]
    phi: Tensor
    """float64 (i, j), i of the first adapter."""


@dataclass(frozen=True, slots=True)
class SiteAmplification:
    """Amplification at one site."""

    site: str
    found: Amplification


def _instead(reference: str, component: Component) -> str:
    if LowRank.__name__ in (abilities_of(component, Registry.discover()) or ()):
        # Over a base that strangers cannot make, its tensors are no files of PEFT's.
        return f"make it so: edgelora export peft {reference} --out DIR, then edgelora adopt DIR"
    return "look at one that is: edgelora show tells the derivative and files of an adapter"


def published_factors(reference: str) -> dict[str, Factors]:
    """The factors of an adapter that is published as plain LoRA, by site, from the input on.

    Embeddings are left out: what is compared are the inputs that linears look at.

    Args:
        reference: An adapter directory, a pulled adapter, or a reference into a store. It is verified.

    Raises:
        ExportUnsupported: What it changes is not said by two factors for each site, or is no linear.
        FeatureRequired: It composes several components, or scales one.
        TensorsMismatch: A factor has no other beside it.
    """
    folder = locate_adapter(reference)
    manifest = check_trusted(folder)
    name = manifest.identity.name
    component = only_component(manifest)
    if not is_plain_lora(component):
        raise ExportUnsupported(
            f"adapter {name} is not published as plain LoRA: two factors do not say what it changes",
            fix=_instead(reference, component),
        )
    tensors = read_tensors(folder, manifest)
    of_linears = [tensor for tensor in tensors if ".lora_embedding_" not in tensor]
    if not of_linears:
        raise ExportUnsupported(
            f"adapter {name} changes embeddings alone, and linears are what is looked at",
            fix="look at one that changes linears",
        )
    sites = sorted({tensor.rpartition(".lora_")[0] for tensor in of_linears}, key=_by_depth)
    if odd := [site for site in sites if {f"{site}.lora_A", f"{site}.lora_B"} - tensors.keys()]:
        raise TensorsMismatch(
            f"adapter {name} lacks a factor of {odd[0] or 'a site'}",
            fix="pull the adapter again, or ask its publisher",
        )
    return {
        site: Factors(
            A := tensors[f"{site}.lora_A"], tensors[f"{site}.lora_B"], _alpha(component, site) / len(A)
        )
        for site in sites
    }


def different_bases(first: str, second: str) -> tuple[str, str] | None:
    """The bases of two adapters, where they are not one: then their directions are of different inputs."""
    bases = [check_trusted(locate_adapter(each)).base for each in (first, second)]
    if bases[0].tensors_digest == bases[1].tensors_digest:
        return None
    return bases[0].repo, bases[1].repo


def source_of(reference: str, base: str | None) -> Callable[[str], Tensor]:
    """Reads the unquantized weights of an adapter's base, which is identified first.

    Args:
        reference: The adapter.
        base: A folder, a cached Hub id or ``micro``; None finds the one the adapter names.

    Raises:
        WrongBase: It is not the base the adapter was trained on.
        ModelError: The base is prepared, and its unquantized weights are nowhere on this machine.
    """
    manifest = check_trusted(locate_adapter(reference))
    place = base_of(manifest, base)
    check_base(manifest.base, identify_base(place), str(place))
    source = source_weights(place)
    if source is None:
        raise ModelError(
            f"{place} is prepared, and the base it was made from is nowhere on this machine",
            fix="name the folder of the unquantized base: --base FOLDER",
        )
    return source


def similarities(
    first: dict[str, Factors],
    second: dict[str, Factors],
    *,
    sites: Iterable[str] = (),
    components: int | None = None,
) -> list[SiteSimilarity]:
    """φ at every site that both adapters have.

    Args:
        first: Factors by site.
        second: Those of the other adapter.
        sites: Names or suffixes of sites to look at; all when empty.
        components: Largest i and j; all when left out.

    Raises:
        PlanError: There is no such site, or the adapters are of bases of different widths.
    """
    shared = _chosen([site for site in first if site in second], sites)
    found = []
    for site in shared:
        A, other = first[site].A, second[site].A
        if A.shape[1] != other.shape[1]:
            raise PlanError(
                f"{site} takes {A.shape[1]} numbers in one adapter and {other.shape[1]} in the other",
                fix="compare adapters of one base",
            )
        phi = subspace_similarity(A, other, components)
        found.append(SiteSimilarity(site, (len(A), len(other)), phi))
    return found


def amplifications(
    factors: dict[str, Factors],
    source: Callable[[str], Tensor],
    *,
    sites: Iterable[str] = (),
    components: int | None = None,
) -> list[SiteAmplification]:
    """The amplification factor at every site, over the unquantized weights of the base.

    Args:
        factors: Of the adapter, by site.
        source: Reads the weight (out, in) of a linear by its name; one is held at a time.
        sites: Names or suffixes of sites to look at; all when empty.
        components: Strongest directions of each change to look at; all when left out.

    Raises:
        PlanError: There is no such site, or the base is of another width.
    """
    found = []
    for site in _chosen(list(factors), sites):
        weight, (A, B, _) = source(site), factors[site]
        if weight.shape != (len(B), A.shape[1]):
            raise PlanError(
                f"{site} of the base is {tuple(weight.shape)}, not {(len(B), A.shape[1])}, as it is adapted",
                fix="name the base the adapter was trained on: --base FOLDER",
            )
        found.append(SiteAmplification(site, amplification(factors[site], weight, components)))
    return found


def _chosen(present: list[str], patterns: Iterable[str]) -> list[str]:
    wanted = list(patterns)
    chosen = [site for site in present if not wanted or is_named(site, wanted)]
    if not chosen:
        kinds = ", ".join(sorted({site.rpartition(".")[2] for site in present})) or "none"
        raise PlanError(
            f"no site to look at is named {' or '.join(wanted)}" if wanted else "the adapters share no site",
            fix=f"name some of these kinds: {kinds}",
        )
    return chosen


def _by_depth(site: str) -> list[tuple[int, str]]:
    """Blocks are numbered: 10 comes after 2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in site.split(".")]


def _alpha(component: Component, site: str) -> float:
    return float(component.config.get("alphaPattern", {}).get(site, component.config["alpha"]))
