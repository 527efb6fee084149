"""The trust policy: one small file that says whose signatures count, for which adapters, and how many."""

from __future__ import annotations

import base64
import binascii
import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)

from edgelora.confined import read_regular
from edgelora.errors import EdgeloraError, MissingFile, TrustPolicyError
from edgelora.locations import config_dir
from edgelora.signing.keys import PublicKey, read_public_der
from edgelora.strict_yaml import NotYaml, read_plain_yaml

POLICY_VARIABLE = "EDGELORA_TRUST_POLICY"
MAX_POLICY_BYTES = 2**20
_WORD = r"[a-z0-9]+(?:[._-][a-z0-9]+)*"
_SCOPE = re.compile(rf"{_WORD}(?:/{_WORD})?")
Fingerprint = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PinnedKey(_Section):
    """A public key that the policy speaks of."""

    public_key: str
    """SubjectPublicKeyInfo in base64: the lines between BEGIN and END of its PEM file, joined."""
    name: str = ""
    """For people."""

    @property
    def key(self) -> PublicKey:
        """The key itself."""
        return read_public_der(base64.b64decode(self.public_key, validate=True), "public_key")


class Rule(_Section):
    """What is asked of the adapters of one namespace, or of one adapter."""

    keys: tuple[Fingerprint, ...] = ()
    """Whose signatures count."""
    threshold: Annotated[int, Field(ge=1, le=16, strict=True)] = 1
    """How many of them must have signed."""
    require_signature: StrictBool = True
    channels: tuple[str, ...] | None = None
    """The only channels to take releases from; any if left out."""
    ignore_expiry: StrictBool = False

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("a key is named twice")
        if self.keys and self.threshold > len(self.keys):
            raise ValueError(f"threshold is {self.threshold}, and there are {len(self.keys)} keys")
        return self


class Revocation(_Section):
    """Why a key counts no longer."""

    reason: str = ""


class TrustPolicy(_Section):
    """Whose signatures count. Without a file nothing is required and nobody is trusted."""

    format: Literal[1] = 1
    """Of the file. One with a higher number is for a later edgelora."""
    keys: dict[Fingerprint, PinnedKey] = Field(default_factory=dict)
    """Every key that a rule names, by its fingerprint."""
    namespaces: dict[str, Rule] = Field(default_factory=dict)
    """By ``ns`` or ``ns/name``; the longer one wins."""
    default: Rule = Rule(require_signature=False)
    """For everything else."""
    revoked: dict[Fingerprint, Revocation] = Field(default_factory=dict)
    """Keys that never count, whatever a rule says."""

    def rule_for(self, namespace: str, name: str) -> Rule:
        """The rule for one adapter."""
        by_name = self.namespaces.get(f"{namespace}/{name}")
        return by_name or self.namespaces.get(namespace) or self.default

    def requiring_signatures(self) -> TrustPolicy:
        """The same policy with a signature required of everything."""
        rules = {scope: _requiring(rule) for scope, rule in self.namespaces.items()}
        return self.model_copy(update={"namespaces": rules, "default": _requiring(self.default)})

    @field_validator("format", mode="before")
    @classmethod
    def _is_a_number(cls, given: object) -> object:
        # True and 1.0 equal 1.
        if type(given) is not int:
            raise ValueError("write it as a whole number")
        return given

    @field_validator("namespaces")
    @classmethod
    def _are_scopes(cls, rules: dict[str, Rule]) -> dict[str, Rule]:
        for scope in rules:
            if not _SCOPE.fullmatch(scope):
                raise ValueError(f"{scope!r} is neither a namespace nor ns/name")
        return rules

    @model_validator(mode="after")
    def _holds_its_keys(self) -> Self:
        for fingerprint, pinned in self.keys.items():
            try:
                actual = pinned.key.fingerprint
            except (EdgeloraError, binascii.Error, ValueError) as error:
                raise ValueError(f"the public_key of {fingerprint} is no key in base64") from error
            if actual != fingerprint:
                raise ValueError(f"the public_key of {fingerprint} is the key {actual}")
        for scope, rule in (*self.namespaces.items(), ("default", self.default)):
            for fingerprint in rule.keys:
                if fingerprint not in self.keys:
                    raise ValueError(f"{scope} names the key {fingerprint}, which is not under keys")
        return self


def policy_path(given: Path | None = None) -> Path:
    """The file as given, as ``EDGELORA_TRUST_POLICY`` says, or ``trust.yaml`` beside the stores."""
    named = os.environ.get(POLICY_VARIABLE)
    return given or (Path(named).expanduser() if named else config_dir() / "trust.yaml")


def read_policy(given: Path | None = None) -> TrustPolicy:
    """The trust policy in force. Only the file that nobody named may be missing.

    Raises:
        MissingFile: The file that was named is not there.
        TrustPolicyError: It is not YAML, a key is unknown, or a value is wrong.
    """
    # A link to it is its owner's business: a container is often given its configuration as one.
    path = policy_path(given).resolve()
    try:
        text = read_regular(path.parent, path.name, limit=MAX_POLICY_BYTES).decode()
    except MissingFile as error:
        if given is None and POLICY_VARIABLE not in os.environ:
            return TrustPolicy()
        raise MissingFile(
            f"there is no trust policy {path}", fix="correct the path, or write one: edgelora keys trust"
        ) from error
    except (EdgeloraError, OSError, UnicodeDecodeError) as error:
        raise TrustPolicyError(
            f"{path} cannot be read: {error}", fix="make it a plain, readable file"
        ) from error
    return parse_policy(text, str(path))


def parse_policy(text: str, where: str) -> TrustPolicy:
    """Read the text of a policy.

    Raises:
        TrustPolicyError: It is not YAML, a key is unknown, or a value is wrong.
    """
    try:
        document = read_plain_yaml(text)
    except NotYaml as error:
        raise TrustPolicyError(f"{where} is not valid YAML: {error}", fix="correct that line") from error
    if document is None:
        # A file that was cut off must not be taken for one that asks for nothing.
        raise TrustPolicyError(
            f"{where} is empty, so it does not say whose signatures count",
            fix="restore it; if nothing shall be required, write 'format: 1' or remove the file",
        )
    try:
        return TrustPolicy.model_validate(document)
    except ValidationError as error:
        raise _explained(error, where) from error


def _explained(error: ValidationError, where: str) -> TrustPolicyError:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(step) for step in first["loc"]) or "the policy"
    if first["type"] == "extra_forbidden":
        return TrustPolicyError(f"{where}: unknown key {place!r}", fix=_nearest(first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return TrustPolicyError(f"{where}: {place}: {message}", fix=f"correct {place}")


def _nearest(place: tuple[int | str, ...]) -> str:
    sections: dict[str, type[BaseModel]] = {
        "keys": PinnedKey,
        "namespaces": Rule,
        "default": Rule,
        "revoked": Revocation,
    }
    section = sections.get(str(place[0]), TrustPolicy) if len(place) > 1 else TrustPolicy
    near = difflib.get_close_matches(str(place[-1]), section.model_fields, n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of: {', '.join(section.model_fields)}"


def _requiring(rule: Rule) -> Rule:
    return rule.model_copy(update={"require_signature": True})
