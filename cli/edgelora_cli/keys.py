"""``edgelora keys``: the keys you sign with, and the keys you trust."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from edgelora_cli.commands import Group
from edgelora_cli.console import emit, note, table
from edgelora_cli.trust_options import policy_option

PASSPHRASE_VARIABLE = "EDGELORA_KEY_PASSPHRASE"


@click.group(cls=Group, short_help="Make keys to sign with, and say whose to trust.")
def keys() -> None:
    """Make keys to sign with, and say whose signatures count."""


@keys.command(
    examples="""
    edgelora keys new ops
    edgelora keys new line-7 --type p256 --encrypt
    edgelora keys new ops --from ops.pem
    """
)
@click.argument("name")
@click.option("--type", "kind", type=click.Choice(["ed25519", "p256"]), default="ed25519", show_default=True)
@click.option("--encrypt", is_flag=True, help=f"Ask for a passphrase, or take {PASSPHRASE_VARIABLE}.")
@click.option(
    "--from",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep a key from a PEM file instead of making one.",
)
def new(name: str, kind: Any, encrypt: bool, file: Path | None) -> None:
    """Make a key called NAME; its private half stays in edgelora's configuration, readable by you alone."""
    from edgelora.signing import import_key, new_key

    if file is not None:
        key = import_key(name, file, passphrase=passphrase_of(file))
    else:
        key = new_key(name, kind, passphrase=_new_passphrase() if encrypt else None)
    document = {"name": key.name, "type": key.public.type, "fingerprint": key.public.fingerprint}
    emit(
        document | {"public_key": key.public.pem.decode()},
        f"{key.name}  {key.public.type}  {key.public.fingerprint}\n{key.public.pem.decode().rstrip()}",
    )
    if key.can_sign:
        note(
            f"next: edgelora sign DIR --key {name}; others trust it: edgelora keys trust FILE --namespace NS"
        )
    else:
        note(f"that is a public key, which cannot sign; next: edgelora keys trust {name} --namespace NS")


@keys.command(
    "list",
    examples="""
    edgelora keys list
    edgelora keys list --json
    """,
)
@policy_option
def list_command(trust_policy: Path | None) -> None:
    """List the keys of this machine and of the trust policy, and where they count."""
    from edgelora.signing import list_keys, read_policy

    policy = read_policy(trust_policy)
    mine = {key.public.fingerprint: key for key in list_keys()}
    document: list[dict[str, Any]] = []
    for fingerprint in sorted({*mine, *policy.keys, *policy.revoked}):
        key, pinned = mine.get(fingerprint), policy.keys.get(fingerprint)
        scopes = [scope for scope, rule in policy.namespaces.items() if fingerprint in rule.keys]
        known = key.public if key else pinned.key if pinned else None
        document.append(
            {
                "fingerprint": fingerprint,
                "name": key.name if key else pinned.name if pinned else "",
                "type": known.type if known else "",
                "can_sign": bool(key and key.can_sign),
                "encrypted": bool(key and key.is_locked),
                "trusted_for": scopes + (["default"] if fingerprint in policy.default.keys else []),
                "revoked": fingerprint in policy.revoked,
            }
        )
    rows = [
        (
            str(row["name"]),
            str(row["type"]),
            "revoked" if row["revoked"] else ", ".join(row["trusted_for"]) or "-",
            "yes" if row["can_sign"] else "",
            str(row["fingerprint"]),
        )
        for row in document
    ]
    text = table(("name", "type", "trusted for", "signs", "fingerprint"), rows) if rows else "no key is known"
    emit({"keys": document}, text)


@keys.command(
    examples="""
    edgelora keys trust ops.pem --namespace acme
    edgelora keys trust ops --namespace acme/decimals --threshold 2
    """
)
@click.argument("key", metavar="FILE|NAME|FINGERPRINT")
@click.option(
    "--namespace", "namespaces", multiple=True, required=True, metavar="NS|NS/NAME", help="Repeatable."
)
@click.option("--threshold", type=click.IntRange(1, 16), help="Trusted signatures needed.  [default: 1]")
@policy_option
def trust(key: str, namespaces: tuple[str, ...], threshold: int | None, trust_policy: Path | None) -> None:
    """Let a key's signatures count in a namespace, and require signatures there from now on."""
    from edgelora.signing import key_named, policy_path
    from edgelora.signing import trust as pin

    named = key_named(key, trust_policy)
    policy = pin(named, namespaces, threshold=threshold, policy=trust_policy)
    rules = {scope: policy.namespaces[scope] for scope in namespaces}
    document = {
        "fingerprint": named.public.fingerprint,
        "policy": str(policy_path(trust_policy)),
        "namespaces": {scope: rule.model_dump(mode="json") for scope, rule in rules.items()},
    }
    lines = [f"{scope}: {rule.threshold} of {len(rule.keys)} keys must sign" for scope, rule in rules.items()]
    emit(document, "\n".join([f"{named.public.fingerprint} is trusted", *lines]))


@keys.command(
    examples="""
    edgelora keys revoke sha256:2f5c… --reason "the laptop was lost"
    """
)
@click.argument("key", metavar="FINGERPRINT|NAME|FILE")
@click.option("--reason", default="", help="Shown to whoever meets a signature by it.")
@policy_option
def revoke(key: str, reason: str, trust_policy: Path | None) -> None:
    """Let a key never count again, whatever the trust policy says about it elsewhere."""
    from edgelora.signing import fingerprint_named, policy_path
    from edgelora.signing import revoke as strike

    fingerprint = fingerprint_named(key, trust_policy)
    strike(fingerprint, reason, policy=trust_policy)
    document = {"fingerprint": fingerprint, "reason": reason, "policy": str(policy_path(trust_policy))}
    emit(document, f"{fingerprint} is revoked")


def passphrase_of(file: Path) -> bytes | None:
    """The passphrase of a key file that needs one: from the environment, or from whoever is there."""
    from edgelora.signing.keyring import read_key_file
    from edgelora.signing.keys import is_encrypted

    return ask_passphrase(str(file)) if is_encrypted(read_key_file(file)) else None


def ask_passphrase(what: str) -> bytes | None:
    """From the environment, or from whoever sits at the terminal; None if nobody does."""
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is None and sys.stdin.isatty():
        given = click.prompt(f"passphrase of {what}", hide_input=True, err=True)
    return given.encode() if given else None


def _new_passphrase() -> bytes:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if not given and sys.stdin.isatty():
        given = click.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True)
    if not given:
        raise click.UsageError(f"nobody is there to type a passphrase: set {PASSPHRASE_VARIABLE}")
    return given.encode()
