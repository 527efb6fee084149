"""The accelerator a run uses: device and processes."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType

from edgelora.errors import CombinationError

SUPPORTED = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}


def make_accelerator(folder: Path, *, tensorboard: bool, routed: bool) -> Accelerator:
    """One process, or data parallelism where ``torchrun`` or ``accelerate launch`` started several.

    The dtypes are the model's own, so accelerate's mixed precision stays off.

    Args:
        folder: Where TensorBoard's files go.
        tensorboard: Write them.
        routed: Some parameters take no part in some steps (layers that route tasks).

    Raises:
        CombinationError: FSDP, DeepSpeed or another wrapper that shards the base was asked for.
    """
    accelerator = Accelerator(
        mixed_precision="no",
        log_with="tensorboard" if tensorboard else None,
        project_dir=folder,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=routed)
        ],
    )
    if accelerator.distributed_type not in SUPPORTED:
        raise CombinationError(
            f"{accelerator.distributed_type.value} is not supported: quantized bases and adapters were not "
            "shown to survive sharding",
            fix="start with torchrun, or accelerate launch with --multi_gpu or --cpu: they copy the base",
        )
    return accelerator
