"""A signature file has one form: whatever can be written in another way is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signers import ed25519, p256

from edgelora.errors import SignatureInvalid
from edgelora.manifest.canonical_json import canonical_json
from edgelora.signing import MAX_ENVELOPE_BYTES, Envelope, Signature, parse_envelope, pre_authentication

PAYLOAD = b'{"a": 1}\n'
IDS = sorted(key.public.fingerprint for key in (ed25519("one"), p256("two")))


def document(**changes: object) -> dict[str, object]:
    signatures = [{"keyid": keyid, "sig": base64.b64encode(b"s" * 64).decode()} for keyid in IDS]
    return {
        "payload": base64.b64encode(PAYLOAD).decode(),
        "payloadType": "application/vnd.edgelora.manifest.v1+json",
        "signatures": signatures,
        **changes,
    }


def test_what_is_signed_is_the_dsse_encoding_of_type_and_payload() -> None:
    assert pre_authentication(b"hello world", "http://example.com/HelloWorld") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_reads_back_as_it_was_written() -> None:
    envelope = Envelope(PAYLOAD, tuple(Signature(keyid, b"s" * 64) for keyid in IDS))
    assert parse_envelope(envelope.encode()) == envelope
    assert envelope.encode() == canonical_json(document())


def test_signatures_that_are_there_stay_and_are_sorted() -> None:
    envelope = Envelope(PAYLOAD, (Signature(IDS[1], b"first"),))
    more = envelope.with_signatures([Signature(IDS[0], b"new"), Signature(IDS[1], b"second")])
    assert more.signatures == (Signature(IDS[0], b"new"), Signature(IDS[1], b"first"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b" " + canonical_json(document()), "canonical form", id="a space before"),
        pytest.param(canonical_json(document()) + b"\n", "canonical form", id="a line end"),
        pytest.param(json.dumps(document()).encode(), "canonical form", id="other spacing"),
        pytest.param(
            canonical_json(document()).replace(b"payloadType", b"payload\\u0054ype"),
            "canonical form",
            id="an escaped letter",
        ),
        pytest.param(canonical_json(document(more=1)), "unknown member 'more'", id="an unknown member"),
        pytest.param(
            canonical_json(document())[:-1] + b',"payload":"YQ=="}', "occurs twice", id="a member twice"
        ),
        pytest.param(
            canonical_json(document(payloadType="text/plain")), "of the type 'text/plain'", id="type"
        ),
        pytest.param(canonical_json(document(payload="YQ")), "not base64", id="no padding"),
        pytest.param(canonical_json(document(payload="YR==")), "only form", id="unused bits"),
        pytest.param(canonical_json(document(payload="Y Q==")), "not base64", id="a space in base64"),
        pytest.param(canonical_json(document(payload="-_8=")), "not base64", id="the alphabet for addresses"),
        pytest.param(canonical_json(document(signatures=[])), "0 signatures", id="no signature"),
        pytest.param(canonical_json(document(signatures={})), "exactly payload", id="no array"),
        pytest.param(
            canonical_json(document(signatures=document()["signatures"][::-1])), "not sorted", id="order"
        ),
        pytest.param(
            canonical_json(document(signatures=document()["signatures"][:1] * 2)), "signs twice", id="twice"
        ),
        pytest.param(
            canonical_json(document(signatures=document()["signatures"] * 9)), "18 signatures", id="too many"
        ),
        pytest.param(
            canonical_json(document(signatures=[{"keyid": "ops", "sig": "YQ=="}])), "fingerprint", id="key"
        ),
        pytest.param(
            canonical_json(document(signatures=[{"keyid": IDS[0].upper(), "sig": "YQ=="}])),
            "fingerprint",
            id="capitals",
        ),
        pytest.param(
            canonical_json(document(signatures=[{"keyid": IDS[0], "sig": "YQ==", "x": 1}])),
            "exactly keyid and sig",
            id="an unknown member of a signature",
        ),
        pytest.param(
            canonical_json(document(signatures=[{"keyid": IDS[0], "sig": "QQ==" * 99}])),
            "base64",
            id="padding inside",
        ),
        pytest.param(
            canonical_json(document(signatures=[{"keyid": IDS[0], "sig": "QUJD" * 99}])),
            "has 297 bytes",
            id="a long signature",
        ),
        pytest.param(b"[]", "exactly payload", id="an array"),
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b"\xff", "UTF-8", id="not UTF-8"),
        pytest.param(b"[" * 100_000, "JSON|deeper", id="deep"),
        pytest.param(b" " * (MAX_ENVELOPE_BYTES + 1), "longer than", id="too long"),
    ],
)
def test_another_form_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(SignatureInvalid, match=problem) as caught:
        parse_envelope(data)
    assert caught.value.fix and caught.value.exit_code == 6


def test_a_file_without_signatures_is_not_written() -> None:
    with pytest.raises(SignatureInvalid, match="0 signatures"):
        Envelope(PAYLOAD, ()).encode()


def test_reading_an_envelope_imports_no_cryptography(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, edgelora.signing; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


VALID = canonical_json(document())


@given(
    st.one_of(
        st.binary(max_size=400),
        st.tuples(st.integers(0, len(VALID)), st.integers(0, 40), st.binary(max_size=40)).map(
            lambda cut: VALID[: cut[0]] + cut[2] + VALID[cut[0] + cut[1] :]
        ),
    )
)
@settings(max_examples=1000, deadline=None, database=None)
def test_what_is_read_is_what_was_written_or_an_error(data: bytes) -> None:
    try:
        envelope = parse_envelope(data)
    except SignatureInvalid:
        return
    assert envelope.encode() == data
