"""The accelerator a run uses: device and processes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NoReturn

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, parse_flag_from_env

from edgelora.errors import CombinationError, DependencyMissing

WRAPPERS = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
SUPPORTED = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}


def make_accelerator(folder: Path, *, tensorboard: bool, routed: bool) -> Accelerator:
    """One process, or data parallelism where ``torchrun`` or ``accelerate launch`` started several.

    The dtypes are the model's own, so accelerate's mixed precision stays off.

    Args:
        folder: Where TensorBoard's files go.
        tensorboard: Write them.
        routed: Some parameters take no part in some steps (layers that route tasks).

    Raises:
        DependencyMissing: TensorBoard is wanted and not installed.
        CombinationError: FSDP, DeepSpeed or another wrapper that shards the base was asked for.
    """
    # Asked for in the environment, they act on GPUs only; on a CPU accelerate would silently do without.
    for variable, name in WRAPPERS.items():
        if parse_flag_from_env(variable):
            _refuse(name)
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise DependencyMissing(
            "train.tensorboard is true, and tensorboard is not installed",
            fix="pip install 'edgelora[tensorboard]', or set train.tensorboard to false",
        )
    accelerator = Accelerator(
        mixed_precision="no",
        log_with="tensorboard" if tensorboard else None,
        project_dir=folder,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=routed)
        ],
    )
    if accelerator.distributed_type not in SUPPORTED:
        _refuse(accelerator.distributed_type.value)
    return accelerator


def _refuse(name: str) -> NoReturn:
    raise CombinationError(
        f"{name} is not supported: quantized bases and adapters were not shown to survive sharding",
        fix="start with torchrun, or accelerate launch with --multi_gpu or --cpu: they copy the base",
    )
