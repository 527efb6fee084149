"""The options of commands that ask who signed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgelora.signing import TrustPolicy

policy_option = click.option(
    "--trust-policy",
    "trust_policy",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Whose signatures count.  [default: EDGELORA_TRUST_POLICY, or trust.yaml beside the stores]",
)
require_signature_option = click.option(
    "--require-signature",
    is_flag=True,
    help="Refuse what too few trusted keys signed, also where the trust policy does not ask for any.",
)


def policy_of(file: Path | None, require_signature: bool) -> TrustPolicy:
    """The trust policy that the options mean."""
    from edgelora.signing import read_policy

    policy = read_policy(file)
    return policy.requiring_signatures() if require_signature else policy
