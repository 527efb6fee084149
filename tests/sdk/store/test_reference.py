"""How adapters are named."""

from __future__ import annotations

import pytest

from edgelora.errors import ReferenceFormError
from edgelora.store import Reference, parse_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("ns/name", Reference(None, "ns", "name")),
        ("ns/name@1.2.0", Reference(None, "ns", "name", version="1.2.0")),
        ("ns/name@1.2.0-rc.1+x", Reference(None, "ns", "name", version="1.2.0-rc.1+x")),
        ("ns/name@main", Reference(None, "ns", "name", version="main")),
        (f"ns/name@{DIGEST}", Reference(None, "ns", "name", digest=DIGEST)),
        ("site:ns/name@1.2.0", Reference("site", "ns", "name", version="1.2.0")),
        ("file:///srv/mirror#ns/name", Reference("file:///srv/mirror", "ns", "name")),
        ("file:///srv/a@b#c/d@1.0.0", Reference("file:///srv/a@b", "c", "d", version="1.0.0")),
        ("https://host:8443/hub#ns/name", Reference("https://host:8443/hub", "ns", "name")),
        ("hf://ns/name@" + "0" * 40, Reference("hf://", "ns", "name", version="0" * 40)),
    ],
)
def test_a_reference_reads_back_as_written(text: str, meant: Reference) -> None:
    assert parse_reference(text) == meant
    assert str(meant) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a reference"),
        ("name", "is not a reference"),
        ("ns/", "is not a reference"),
        ("ns/name@", "is not a reference"),
        ("ns/a/b", "the name of an adapter"),
        ("Ns/name", "a namespace"),
        ("ns--x/name", "a namespace"),
        ("../name", "a namespace"),
        ("ns/..", "the name of an adapter"),
        ("ns/.hidden", "the name of an adapter"),
        ("ns/na\nme", "the name of an adapter"),
        ("ns/" + "a" * 65, "the name of an adapter"),
        ("con/name", "Windows reserves it"),
        ("ns/nul.x", "Windows reserves it"),
        ("ns/name.git", "git reserves its ending"),
        ("ns/name@1.0", "neither a version nor a digest"),
        ("ns/name@v1.0.0", "neither a version nor a digest"),
        ("ns/name@../x", "neither a version nor a digest"),
        ("ns/name@sha256:ABC", "is not a digest"),
        ("Site:ns/name", "the name of a store"),
        ("file:ns/name", "the name of a store"),
        ("ftp://host#ns/name", "does not say which adapter"),
        ("file:///srv/mirror", "does not say which adapter"),
    ],
)
def test_other_forms_are_refused_and_say_why(text: str, problem: str) -> None:
    with pytest.raises(ReferenceFormError) as caught:
        parse_reference(text)
    assert problem in caught.value.problem
    assert caught.value.fix
