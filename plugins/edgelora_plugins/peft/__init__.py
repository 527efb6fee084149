"""Every method of the installed PEFT as an adapter, found as ``peft:NAME``.

PEFT, github.com/huggingface/peft. Options are the fields of the method's own configuration.
"""

import logging
from collections.abc import Iterable

from edgelora import Derivative, Part, hookimpl
from edgelora_plugins.peft.methods import METHODS

# PEFT loads bitsandbytes, which tells of an optional kernel for CPUs that it computes without.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "gemm_4bit" not in record.msg)


@hookimpl
def edgelora_adapters() -> Iterable[Part]:
    """``lora``, ``vera``, ``prompt-tuning`` and all other methods; some say why they cannot be used."""
    for name, method in METHODS.items():
        yield Part(
            name=name,
            target="edgelora_plugins.peft.adapter:PeftAdapter",
            options=f"edgelora_plugins.peft.options:OF.{name.replace('-', '_')}",
            summary=method.summary,
            paper=method.paper,
            abilities=("AdaptsModel", "StockPeft"),
            qualified_only=True,
            unusable=method.unusable,
            starts_elsewhere=method.starts_elsewhere,
            kit={"options": dict(method.small), "learning_rate": method.learning_rate},
        )


@hookimpl
def edgelora_derivatives() -> Iterable[Derivative]:
    """One for each method that can be used."""
    for name, method in METHODS.items():
        if not method.unusable:
            yield Derivative(
                name=name,
                summary=method.summary,
                paper=method.paper,
                parts={"adapter": {"name": name, **method.usual} if method.usual else name},
                qualified_only=True,
            )
