"""What a recipe says about the adapter it makes: who publishes it, under which licence, for what."""

from __future__ import annotations

from typing import Annotated, Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from edgelora.manifest.fields import Digest, Language, Word

UNSPECIFIED_LICENSE = "LicenseRef-unspecified"
"""An SPDX expression that says that nobody was given a licence yet."""


def license_expression(text: str) -> str:
    """An SPDX licence expression with its identifiers as SPDX writes them: ``Apache-2.0 OR MIT``.

    Raises:
        ValueError: It is not one.
    """
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression as error:
        raise ValueError(
            f"{text!r} is not an SPDX licence expression such as Apache-2.0; "
            "a licence that SPDX does not list is written LicenseRef-<name>"
        ) from error


def is_unspecified(license: str) -> bool:
    """Whether a manifest's licence says that none was given."""
    return license in (UNSPECIFIED_LICENSE, "NOASSERTION", "NONE")


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("write one line of text")
    return text


Line = Annotated[str, AfterValidator(_one_line)]
Prose = Annotated[str, Field(min_length=1, max_length=4000)]


class Origin(BaseModel):
    """An adapter this one was made from, by the digest of its manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    manifest: Digest
    """As ``push`` prints it: ``sha256:`` and 64 hex digits."""
    relation: Word = "continued"

    @model_validator(mode="before")
    @classmethod
    def _from_digest(cls, given: Any) -> Any:
        return {"manifest": given} if isinstance(given, str) else given


class About(BaseModel):
    """What the manifest and the card say of the adapter besides its making."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    publisher: Line | None = None
    """Who answers for it: a person, a company."""
    license: Annotated[str, AfterValidator(license_expression)] = UNSPECIFIED_LICENSE
    """SPDX expression under which the adapter is published; others may not use it before there is one."""
    languages: tuple[Language, ...] = ()
    """BCP 47 tags of the languages the adapter is for."""
    intended_use: Prose | None = None
    """What it was made for."""
    out_of_scope: Prose | None = None
    """What it should not be used for."""
    risk: Prose | None = None
    """What can go wrong, and for whom."""
    derived_from: tuple[Origin, ...] = ()
    """Adapters this one was made from, by the digests of their manifests."""
