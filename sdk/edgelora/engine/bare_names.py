"""Names of stored tensors, in files of a whole model and of a bare backbone."""

from __future__ import annotations

from collections.abc import Iterable


def model_names(stored: Iterable[str], prefix: str) -> dict[str, str]:
    """The stored names by the names the model knows their tensors by.

    A file of a bare backbone leaves out the prefix under which the model holds it, in all names.

    Args:
        stored: Of all files of the model.
        prefix: Under which the model holds its backbone, such as ``model``; without a dot.
    """
    stored = list(stored)
    bare = not any(name.startswith(f"{prefix}.") for name in stored)
    return {f"{prefix}.{name}" if bare else name: name for name in stored}
