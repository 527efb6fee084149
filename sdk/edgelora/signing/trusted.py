"""Is an adapter folder sound, and signed by whom the trust policy asks for?"""

from __future__ import annotations

from pathlib import Path

from edgelora.confined import read_regular
from edgelora.errors import DigestMismatch, EdgeloraError
from edgelora.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME, Manifest, parse_manifest
from edgelora.signing.judge import Judgement, judge
from edgelora.signing.policy import TrustPolicy, read_policy
from edgelora.signing.signer import name_of, read_signature_file
from edgelora.verify import Finding, check, check_and_read


def check_trusted(folder: Path, policy: TrustPolicy | None = None) -> Manifest:
    """The manifest that `read_trusted` reads."""
    return read_trusted(folder, policy)[1]


def read_trusted(folder: Path, policy: TrustPolicy | None = None) -> tuple[bytes, Manifest]:
    """The manifest of a sound adapter folder that the trust policy lets pass: its bytes, and what they say.

    What is returned was read from the bytes whose signatures were checked.

    Args:
        folder: The adapter.
        policy: Whose signatures count; None reads the policy in force.

    Raises:
        EdgeloraError: What `edgelora.verify.check` or `judge` finds.
    """
    manifest = check(folder)
    data, signed = _manifest_of(folder)
    if signed != manifest:
        raise DigestMismatch(
            f"{folder / MANIFEST_NAME} changed while it was read", fix="leave the folder alone, and try again"
        )
    judge_folder(folder, data, signed, policy)
    return data, signed


def trusted_weights(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    """As `check_trusted`, with the bytes of the safetensors files that were verified, by path.

    Raises:
        EdgeloraError: As `read_trusted`.
    """
    manifest, read = check_and_read(folder)
    judge_folder(folder, read.pop(MANIFEST_NAME), manifest)
    return manifest, read


def judge_folder(
    folder: Path, data: bytes, manifest: Manifest, policy: TrustPolicy | None = None
) -> Judgement:
    """`judge` for the signature file that lies in a folder."""
    return judge(
        data,
        read_signature_file(folder),
        identity=manifest.identity,
        policy=policy or read_policy(),
        where=name_of(manifest.identity),
    )


def signature_findings(
    folder: Path, policy: TrustPolicy | None = None
) -> tuple[Judgement | None, list[Finding]]:
    """Who signed a folder, and what is wrong with that, in the form of `edgelora.verify.verify`."""
    try:
        data, manifest = _manifest_of(folder)
    except (EdgeloraError, OSError):
        # `verify` says what is wrong with it.
        return None, []
    try:
        judgement = judge_folder(folder, data, manifest, policy or read_policy())
    except EdgeloraError as error:
        return None, [Finding(error.id, SIGNATURE_NAME, error.problem, "error", error.fix)]
    return judgement, [
        Finding(
            "signature-untrusted",
            SIGNATURE_NAME,
            f"signed by {signer.name or signer.fingerprint}, a key you do not trust for this adapter",
            "warning",
            f"edgelora keys trust {signer.fingerprint} --namespace {manifest.identity.namespace}",
        )
        for signer in judgement.signers
        if signer.standing in ("known", "unknown")
    ]


def _manifest_of(folder: Path) -> tuple[bytes, Manifest]:
    data = read_regular(folder, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)
    return data, parse_manifest(data, str(folder / MANIFEST_NAME))
