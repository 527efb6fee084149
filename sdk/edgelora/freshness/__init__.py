"""Signed statements about what a mirror holds now, so that it can neither go back nor stand still (TUF).

Importing this package needs no extra. `edgelora.freshness.authoring` makes the statements and
`edgelora.freshness.client` holds a mirror to them: both need `edgelora[tuf]`.
"""

from edgelora.freshness.pinned import (
    check_listed,
    pin_namespace,
    pin_root,
    require_extra,
    state_folder,
    states_of,
)

__all__ = ["check_listed", "pin_namespace", "pin_root", "require_extra", "state_folder", "states_of"]
