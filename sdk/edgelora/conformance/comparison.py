"""Comparing what a reader says with what the specification says, and telling it as text, JSON and JUnit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

from edgelora.conformance.foreign import Reader, Verdict
from edgelora.conformance.vectors import Vector, placed

Outcome = Literal["right", "wrong", "skipped"]
OUTCOMES: tuple[Outcome, ...] = ("right", "wrong", "skipped")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One vector and one verdict."""

    vector: Vector
    verdict: Verdict
    outcome: Outcome

    @property
    def has_other_id(self) -> bool:
        """Whether it is refused, rightly, under another id than edgelora's: a difference, no failure."""
        ids = (self.vector.id, self.verdict.id)
        return self.outcome == "right" and None not in ids and ids[0] != ids[1]

    @property
    def sentence(self) -> str:
        """What was expected and what happened."""
        expected = "accept" if self.vector.is_accepted else f"refuse ({self.vector.id})"
        said = {True: "accepted", False: "refused", None: "failed"}[self.verdict.is_accepted]
        words = f": {self.verdict.words}" if self.verdict.words else ""
        return (
            f"{self.vector.kind}/{self.vector.name}: must {expected}, was {said}{words} [{self.vector.rule}]"
        )


def compare(vector: Vector, reader: Reader, features: frozenset[str]) -> Comparison:
    """Ask a reader about one vector.

    Args:
        vector: Which.
        reader: Whom.
        features: Those of ``requires`` that the reader knows.
    """
    if not vector.holds_for(features):
        words = "it is about other features than those the reader knows"
        return Comparison(vector, Verdict(None, words=words), "skipped")
    with placed(vector) as path:
        verdict = reader(vector.kind, path)
    if verdict.is_unread:
        return Comparison(vector, verdict, "skipped")
    return Comparison(vector, verdict, "right" if verdict.is_accepted is vector.is_accepted else "wrong")


def compare_all(
    vectors: Iterable[Vector], reader: Reader, features: frozenset[str], *, jobs: int = 1
) -> list[Comparison]:
    """Ask a reader about each vector, ``jobs`` at a time; in the order of the vectors."""
    if jobs == 1:
        return [compare(vector, reader, features) for vector in vectors]
    pool = ThreadPoolExecutor(jobs)
    try:
        return list(pool.map(lambda vector: compare(vector, reader, features), vectors))
    finally:
        # Whoever stops the comparison does not wait for the vectors that are left.
        pool.shutdown(wait=False, cancel_futures=True)


def counts_of(found: Iterable[Comparison]) -> dict[str, int]:
    """How many are right, wrong and skipped."""
    counted = Counter(each.outcome for each in found)
    return {outcome: counted[outcome] for outcome in OUTCOMES}


def as_document(found: list[Comparison]) -> dict[str, Any]:
    """For ``--json``: counts, and every vector that is not simply right."""
    kinds = sorted({each.vector.kind for each in found})
    return {
        **counts_of(found),
        "kinds": {kind: counts_of(each for each in found if each.vector.kind == kind) for kind in kinds},
        "vectors": [_row(each) for each in found if each.outcome != "right" or each.has_other_id],
    }


def as_junit(found: list[Comparison]) -> bytes:
    """For ``--junit``: a suite per kind, a case per vector."""
    root = ElementTree.Element("testsuites", name="edgelora conformance")
    for kind in sorted({each.vector.kind for each in found}):
        cases = [each for each in found if each.vector.kind == kind]
        counts = counts_of(cases)
        suite = ElementTree.SubElement(root, "testsuite", name=kind, tests=str(len(cases)))
        suite.attrib |= {"failures": str(counts["wrong"]), "skipped": str(counts["skipped"])}
        for each in cases:
            case = ElementTree.SubElement(suite, "testcase", classname=kind, name=each.vector.name)
            if each.outcome == "wrong":
                ElementTree.SubElement(case, "failure", message=_printable(each.sentence))
            elif each.outcome == "skipped":
                ElementTree.SubElement(case, "skipped", message=_printable(each.verdict.words))
    report: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return report


def _row(each: Comparison) -> dict[str, Any]:
    return {
        "vector": f"{each.vector.kind}/{each.vector.name}",
        "rule": each.vector.rule,
        "outcome": each.outcome,
        "expected": "accept" if each.vector.is_accepted else "refuse",
        "expected_id": each.vector.id,
        "id": each.verdict.id,
        "words": each.verdict.words,
    }


def _printable(text: str) -> str:
    """Without characters that XML cannot hold."""
    return "".join(character if character.isprintable() else "?" for character in text)
