"""``edgelora verify``: check every byte of an adapter, without torch and without a network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelora_cli.commands import Command
from edgelora_cli.console import emit, print_problem, settings, warn
from edgelora_cli.terminal import one_line
from edgelora_cli.trust_options import policy_of, policy_option, require_signature_option

if TYPE_CHECKING:
    from edgelora.signing import Judgement
    from edgelora.verify import Finding


@click.command(
    cls=Command,
    short_help="Check every byte of an adapter.",
    examples="""
    edgelora verify runs/first/adapter
    edgelora verify acme/decimals@1.0.0 --json
    edgelora verify acme/decimals@1.0.0 --require-signature
    """,
)
@click.argument("adapter")
@require_signature_option
@policy_option
@click.pass_context
def verify(ctx: click.Context, adapter: str, require_signature: bool, trust_policy: Path | None) -> None:
    """Check ADAPTER, a folder or a reference, against its manifest and the trust policy.

    Checks the manifest, its signatures, the set of files, every digest, the form of every tensor file, and
    that nothing in the folder can run code. Reports all it finds; the exit code is the class of the first
    error.
    """
    from edgelora.signing import signature_findings
    from edgelora.transfer import locate_adapter
    from edgelora.verify import verify as find

    folder = locate_adapter(adapter)
    judgement, signature = signature_findings(folder, policy_of(trust_policy, require_signature))
    findings = [*find(folder), *signature]
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        ctx.exit(_report_unsound(folder, findings, errors[0]))
    for finding in findings:
        warn(finding.problem)
    _report_sound(folder, findings, judgement)


def _report_sound(folder: Path, findings: list[Finding], judgement: Judgement | None) -> None:
    from edgelora.manifest import MANIFEST_NAME, read_manifest

    manifest = read_manifest(folder / MANIFEST_NAME)
    size = sum(entry.size for entry in manifest.files)
    document = _document(folder, findings) | {
        "files": len(manifest.files),
        "bytes": size,
        "tree_digest": manifest.tree_digest,
        "signers": [asdict(signer) for signer in judgement.signers] if judgement else [],
    }
    text = f"{folder}: sound ({len(manifest.files)} files, {size:,} bytes)\n  {manifest.tree_digest}"
    emit(document, "\n  ".join([text, *(_signed_by(signer) for signer in document["signers"])]))


def _signed_by(signer: dict[str, str]) -> str:
    return one_line(f"signed by {signer['name'] or signer['fingerprint']} ({signer['standing']})")


def _report_unsound(folder: Path, findings: list[Finding], first: Finding) -> int:
    from edgelora.errors import every_error

    exit_code = next(kind.exit_code for kind in every_error() if kind.id == first.id)
    error = {"id": first.id, "exit_code": exit_code, "problem": first.problem, "fix": first.fix}
    for finding in findings:
        print_problem(finding.id, finding.problem, finding.fix)
    if settings().json:
        emit(_document(folder, findings) | {"error": error}, "")
    return exit_code


def _document(folder: Path, findings: list[Finding]) -> dict[str, Any]:
    sound = not any(finding.severity == "error" for finding in findings)
    return {"folder": str(folder), "sound": sound, "findings": [asdict(finding) for finding in findings]}
