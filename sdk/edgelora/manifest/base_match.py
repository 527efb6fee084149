"""Is this the base model an adapter was trained on?"""

from __future__ import annotations

from edgelora.errors import WrongBase
from edgelora.manifest.base import Base


def check_base(wanted: Base, found: Base, place: str) -> None:
    """Refuse a base whose weights, tokenizer or configuration differ; names and file layouts do not matter.

    A configuration is compared by what it means; by its bytes only where it has no canonical form.

    Args:
        wanted: As the manifest records it.
        found: As `identify_base` describes it.
        place: How errors name what was found.

    Raises:
        WrongBase: They differ.
    """
    pairs: dict[str, tuple[str | None, str | None]] = {
        "weight set": (wanted.tensors_digest, found.tensors_digest),
        "tokenizer": (wanted.tokenizer_digest, found.tokenizer_digest),
        "configuration": (wanted.config_semantic_digest, found.config_semantic_digest),
    }
    if wanted.config_semantic_digest is None:
        pairs["configuration"] = (wanted.config_digest, found.config_digest)
    for what, (expected, actual) in pairs.items():
        if expected is not None and expected != actual:
            raise WrongBase(
                f"the adapter was trained on {wanted.repo} with {what} of digest {expected}; "
                f"the {what} in {place} has {actual}",
                fix=f"pass the folder of {wanted.repo} as the base: --base FOLDER",
            )
