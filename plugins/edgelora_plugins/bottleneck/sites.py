"""The linears that end a transformer's sublayers, by the names that architectures give them."""

from __future__ import annotations

from collections.abc import Sequence

from edgelora.errors import PlanError
from edgelora.module_names import is_named

ATTENTION = (
    "o_proj", "out_proj", "attn.c_proj", "attention.c_proj", "attention.dense", "self_attention.dense",
    "self_attn.dense", "attn.wo", "attention.wo",
)  # fmt: skip
FEED_FORWARD = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2")


def sublayer_outputs(linears: Sequence[str]) -> list[str]:
    """Names of the linears whose outputs are added to the residual stream, in their order.

    Raises:
        PlanError: None ends an attention, or none a feed-forward sublayer, as far as names tell.
    """
    found: set[str] = set()
    for sublayer, known in (("an attention", ATTENTION), ("a feed-forward", FEED_FORWARD)):
        ending = [name for name in linears if is_named(name, known)]
        if not ending:
            kinds = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
            raise PlanError(
                f'target_modules is "outputs", and no linear of this model ends {sublayer} sublayer by its '
                f"name; they are called {kinds}",
                fix="list those whose outputs are added to the residual stream: target_modules: [...]",
            )
        found.update(ending)
    return [name for name in linears if name in found]
