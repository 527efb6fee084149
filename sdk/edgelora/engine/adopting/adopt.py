"""Taking in an adapter that PEFT saved: understood, converted exactly, checked, and given a manifest."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgelora.about import license_expression
from edgelora.engine.adopting.convert import Converted, convert
from edgelora.engine.adopting.reading import repository_of
from edgelora.engine.adopting.reference import acting_weight
from edgelora.engine.adopting.settings import check_settings, refused, shown
from edgelora.engine.adopting.source import PeftSource, read_source
from edgelora.engine.adopting.write import Adoption, write_adopted
from edgelora.engine.apply import load_tensors, probe_logits
from edgelora.engine.base import load_base, locate_base
from edgelora.engine.inject import inject, plain_linears
from edgelora.errors import (
    BaseNotFound,
    EdgeloraError,
    ModelError,
    NoEffect,
    NotAdoptable,
    OptionsError,
    TargetExists,
    WrongBase,
)
from edgelora.files import disk_full_is_an_error, make_dirs, publish_directory
from edgelora.known_bases import remember_base
from edgelora.manifest import MANIFEST_NAME, UNPUBLISHED, Manifest
from edgelora.manifest.base_files import check_base_unchanged, state_of_base
from edgelora.manifest.base_identity import identify_base
from edgelora.plan import make_plan
from edgelora.prepared import prepared_base
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.store import Reference, parse_reference
from edgelora.verify import check

FIRST_VERSION = "0.1.0"
_TOLERANCE = 1e-4
"""Of the largest logit: float32 rounds a product and a sum differently; a wrong scale is far beyond."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """An adapter that was taken in."""

    folder: Path
    manifest: Manifest
    kind: str
    """PEFT's name of the method it was made with."""
    difference: float
    """The largest between its logits and those of PEFT's formula, on a probe."""


def adopt(
    folder: Path,
    registry: Registry,
    out: Path,
    *,
    base: str | None = None,
    name: str | None = None,
    license: str | None = None,
) -> Adopted:
    """Make an adapter directory of one that PEFT saved, or refuse it with the reason.

    What it computes stays the same: it is compared, on the base, with PEFT's formula written out naively.
    The card, the licence and the author are kept.

    Args:
        folder: As PEFT's ``save_pretrained`` left it, or a cached snapshot of the Hub.
        registry: The installed plugins.
        out: The folder to make.
        base: Folder or Hub id of the base; by default the one its configuration names.
        name: ``ns/name@version`` to give it.
        license: SPDX expression, instead of the card's.

    Raises:
        NotAdoptable: edgelora cannot compute what it computes.
        NoEffect: It changes nothing.
        UnsafeFile: Its weights are a pickle.
        BaseNotFound: The base is not on this machine.
        WrongBase: ``base`` has other weights than the base that the configuration names, which is here too.
        TargetExists: There is something at ``out``.
    """
    if out.exists() or out.is_symlink():
        raise TargetExists(f"{out} exists already", fix="name another folder with --out, or delete it first")
    reference = _reference(name, folder)
    spdx = _license(license)
    if (folder / MANIFEST_NAME).exists():
        raise NotAdoptable(
            f"{folder} holds an adapter of edgelora already",
            fix=f"publish it: edgelora push {folder} NS/NAME",
        )
    source = read_source(folder)
    check_settings(source.kind, source.config)
    place = _base_of(source, base)
    if prepared_base(place):
        raise ModelError(
            f"{place} is a prepared base, and an adapter is adopted over the unquantized weights it acts on",
            fix="name the unquantized model: --base FOLDER",
        )
    state = state_of_base(place)
    # On the CPU, where the adapter's tensors are read: its decompositions differ from device to device.
    model = load_base(make_plan(_recipe(place), registry), torch.device("cpu"))
    linears = plain_linears(model)
    converted = convert(source, lambda site: _weight(source, linears, site))
    _check_start(source, converted, linears)
    before, expected = probe_logits(model), _reference_logits(model, source, converted, linears)
    plan = make_plan(_recipe(place, converted), registry)
    layers = inject(model, plan)
    model.eval()
    load_tensors(layers, _tensors(converted), str(folder))
    difference = _compare(source, before, expected, probe_logits(model))
    repo = base if base is not None else source.config["base_model_name_or_path"]
    described = identify_base(place, repo=repo if _is_name(repo) else None)
    check_base_unchanged(place, state)
    adoption = Adoption(source, converted, plan, described, reference, spdx or source.license())
    _publish(model, adoption, out)
    remember_base(described, place)
    return Adopted(out, check(out), source.kind, difference)


def _reference(name: str | None, folder: Path) -> Reference:
    if name is not None:
        reference = parse_reference(name)
        return reference if reference.version else reference.at(FIRST_VERSION)
    place = folder.resolve()
    # A snapshot in the Hub's cache is named for its commit.
    repository = repository_of(place)
    called = repository[1] if repository else place.name
    words = re.sub(r"[^a-z0-9]+", "-", called.lower()).strip("-")[:64].strip("-") or "adapter"
    return Reference(None, UNPUBLISHED, words, FIRST_VERSION)


def _license(given: str | None) -> str | None:
    try:
        return None if given is None else license_expression(given)
    except ValueError as error:
        raise OptionsError(
            str(error), fix="pass an SPDX expression such as Apache-2.0 to --license"
        ) from error


def _base_of(source: PeftSource, given: str | None) -> Path:
    named = source.config.get("base_model_name_or_path")
    if given is None and (not isinstance(named, str) or not named):
        raise BaseNotFound(f"{source.folder} does not name its base model", fix="name it: --base FOLDER")
    if given is not None:
        place = locate_base(given)
        _check_given(source, place)
        return place
    revision = source.config.get("revision")
    if not str(named).isprintable():
        raise _no_base(source, named)
    try:
        return locate_base(str(named), revision if isinstance(revision, str) else None)
    # RuntimeError: it begins with the home of a user who is not there.
    except (OSError, ValueError, RuntimeError) as error:
        raise _no_base(source, named) from error


def _check_given(source: PeftSource, place: Path) -> None:
    """Refuse a base that the user names where the one the configuration names is here and is another."""
    try:
        named = _base_of(source, None)
    except EdgeloraError:
        return
    if named.resolve() == place.resolve():
        return
    own, given = identify_base(named).tensors_digest, identify_base(place).tensors_digest
    if own != given:
        raise WrongBase(
            f"{source.folder} names the base {named}, whose weights have the digest {own}; those of {place} "
            f"have {given}",
            fix="leave --base out, or correct base_model_name_or_path in its adapter_config.json",
        )


def _no_base(source: PeftSource, named: Any) -> BaseNotFound:
    return BaseNotFound(
        f"{source.folder} names a base model that cannot be one: {shown(named)}", fix="name it: --base FOLDER"
    )


def _is_name(base: Any) -> bool:
    """Whether a base is called by a name that means the same elsewhere: not a folder, not a digest."""
    return isinstance(base, str) and not Path(base).expanduser().is_dir() and not base.startswith("sha256:")


def _recipe(place: Path, converted: Converted | None = None) -> Any:
    document: dict[str, Any] = {"base": str(place), "train": {"dtype": "float32"}}
    if converted is not None:
        ranks = {site: len(factors.A) for site, factors in converted.factors.items()}
        document["derivative"] = "dora" if converted.magnitudes else "lora"
        document["adapter"] = {
            "rank": next(iter(ranks.values())),
            "rank_pattern": ranks,
            "alpha_pattern": {site: each.scaling * ranks[site] for site, each in converted.factors.items()},
            "target_modules": list(ranks),
        }
    return make_recipe(document, where="the adopted adapter")


def _weight(source: PeftSource, linears: Mapping[str, nn.Module], site: str) -> Tensor:
    if site not in linears:
        raise refused(
            source.kind, f"it adapts {site[:100]}, which is no linear inside the blocks of this base"
        )
    return linears[site].weight


def _check_start(source: PeftSource, converted: Converted, linears: Mapping[str, nn.Module]) -> None:
    """Refuse what PEFT (0.21) took out of a weight as if it were (out, in) when training began."""
    start = source.config.get("init_lora_weights")
    turned = [site for site in converted.factors if linears[site].fan_in_fan_out]
    if turned and isinstance(start, str) and start.lower() == "olora":
        reason = f"{turned[0][:100]} stores its weight as (in, out), and PEFT starts OLoRA wrongly there"
        raise refused(source.kind, reason)


@torch.no_grad()
def _reference_logits(
    model: Any, source: PeftSource, converted: Converted, linears: Mapping[str, nn.Module]
) -> Tensor:
    """Logits of the base with each adapted weight replaced by the one it acts as."""
    kept = {site: _weight(source, linears, site).data for site in converted.factors}
    try:
        for site, weight in kept.items():
            linears[site].weight.data = acting_weight(source, site, weight)
        return probe_logits(model)
    finally:
        for site, weight in kept.items():
            linears[site].weight.data = weight


def _tensors(converted: Converted) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for site, factors in converted.factors.items():
        tensors |= {f"{site}.lora_A": factors.A, f"{site}.lora_B": factors.B}
        if site in converted.magnitudes:
            tensors[f"{site}.lora_magnitude_vector"] = converted.magnitudes[site]
    return tensors


def _compare(source: PeftSource, before: Tensor, expected: Tensor, computed: Tensor) -> float:
    if torch.equal(before, computed):
        raise NoEffect(
            f"the adapter in {source.folder} changes no output of the base",
            fix="it was saved before it was trained, or for another base: use the base alone",
        )
    difference = float((computed - expected).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise NotAdoptable(
            f"the adapter in {source.folder} would give logits that differ from PEFT's by {difference:.3g}",
            fix="report it: the conversion of this adapter is wrong",
        )
    return difference


def _publish(model: Any, adoption: Adoption, out: Path) -> None:
    staging = out.absolute().with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    with disk_full_is_an_error(out):
        make_dirs(staging)
        try:
            write_adopted(model, adoption, staging)
            publish_directory(staging, out.absolute())
        finally:
            shutil.rmtree(staging, ignore_errors=True)
