"""The front matter of a model card, in the words the Hub searches and validates by."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from edgelora.manifest import Base, EvaluationEntry, TrainingDataset

TASK = "text-generation"

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COPYLEFT = re.compile(r"((?:a|l)?gpl-[0-9.]+)-(?:only|or-later)")
# The licences the Hub has a name of its own for, as SPDX writes them in lower case.
_KNOWN_LICENSES = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsl-1.0 bsd-2-clause bsd-3-clause
bsd-3-clause-clear cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
eupl-1.2 gpl-2.0 gpl-3.0 isc lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa
ofl-1.1 osl-3.0 postgresql unlicense wtfpl zlib
"""


def front_matter(
    *,
    title: str,
    base: Base,
    derivative: str,
    evaluation: Iterable[EvaluationEntry],
    datasets: Iterable[TrainingDataset],
    license: str,
    languages: Iterable[str],
    peft: bool,
) -> dict[str, Any]:
    """What the Hub shows and finds an adapter by; what it would refuse stays in the manifest alone.

    A base in a folder is no repository, local files are no data sets, and only the primary part of a language
    tag is known there.
    """
    front: dict[str, Any] = {}
    if _REPOSITORY.fullmatch(base.repo):
        front |= {"base_model": base.repo, "base_model_relation": "adapter"}
    front |= {"library_name": "peft" if peft else "edgelora", **_license(license), "pipeline_tag": TASK}
    front["tags"] = ["edgelora", derivative, "lora"] if derivative != "lora" else ["edgelora", "lora"]
    primary = dict.fromkeys(tag.partition("-")[0].lower() for tag in languages)
    if primary:
        front["language"] = list(primary)
    known = [each.name for each in datasets if "/" in each.name and _REPOSITORY.fullmatch(each.name)]
    if known:
        front["datasets"] = list(dict.fromkeys(known))
    results = _results([entry for entry in evaluation if entry.phase == "adapter"])
    if results:
        front["model-index"] = [{"name": title, "results": results}]
    return front


def _license(license: str) -> dict[str, str]:
    known = _COPYLEFT.sub(r"\1", license.lower())
    if known in _KNOWN_LICENSES.split():
        return {"license": known}
    return {"license": "other", "license_name": license.removeprefix("LicenseRef-")}


def _results(entries: list[EvaluationEntry]) -> list[dict[str, Any]]:
    """The model index: measurements grouped by what was measured on."""
    groups: dict[tuple[str, str, str], list[EvaluationEntry]] = {}
    for entry in entries:
        groups.setdefault(_measured_on(entry), []).append(entry)
    return [
        {
            "task": {"type": TASK},
            "dataset": {"name": name, "type": kind, **({"split": split} if split else {})},
            "metrics": [_metric(entry) for entry in group],
        }
        for (name, kind, split), group in groups.items()
    ]


def _measured_on(entry: EvaluationEntry) -> tuple[str, str, str]:
    """Name, type and split of what was measured on; rows of one's own have no repository to name."""
    if entry.dataset is None:
        return "rows kept out of training", "held-out", entry.task or ""
    name = entry.dataset.name
    return name, name if _REPOSITORY.fullmatch(name) else "held-out", entry.dataset.split or ""


def _metric(entry: EvaluationEntry) -> dict[str, Any]:
    about: dict[str, Any] = {"n": entry.n}
    if entry.low is not None and entry.high is not None:
        about |= {"low": float(entry.low), "high": float(entry.high)}
    return {"type": entry.metric, "name": entry.metric, "value": float(entry.value), "args": about}
