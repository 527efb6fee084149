"""The gradient of one optimizer step, from micro-batches of unequal size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from edgelora.capabilities import HasAuxLosses, TaskAware
from edgelora.engine.data import collate
from edgelora.engine.linears import LINEARS
from edgelora.errors import NonFiniteLoss
from edgelora.layers.loss import row_losses
from edgelora.protocols import Batch, LossCombiner


class RowLosses(nn.Module):
    """A model and its loss as one module, so that distributed wrappers see every forward pass."""

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module], chunk: int) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk
        self.routed = [layer for layer in layers.values() if isinstance(layer, TaskAware)]
        # Every process has the base from the same files. Sending it around would copy what is mapped.
        self._ddp_params_and_buffers_to_ignore = _base_tensors(self)
        self.with_aux = {site: layer for site, layer in layers.items() if isinstance(layer, HasAuxLosses)}

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Summed losses (batch,) and labelled tokens (batch,) of each row, and the auxiliary losses."""
        for layer in self.routed:
            layer.route(batch.task_ids)
        sums, counts = row_losses(self.model, batch, self.chunk)
        aux = {
            f"aux.{site}.{name}": loss
            for site, layer in self.with_aux.items()
            for name, loss in layer.aux_losses().items()
        }
        return sums, counts, aux


def _base_tensors(module: nn.Module) -> list[str]:
    return [
        f"{place}.{name}"
        for place, part in module.named_modules(remove_duplicate=False)
        if isinstance(part, (*LINEARS, nn.Embedding))
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        if not tensor.requires_grad
    ]


class Gradients:
    """Backward passes of optimizer steps.

    Each micro-batch weighs what its labelled tokens weigh in the step, over all processes, so that the
    gradient is that of one batch with all rows, whatever way they are split (for which combiners exactly, see
    `LossCombiner`). The combiner's parameters are moved to the accelerator's device.

    Args:
        forward: A `RowLosses`, possibly inside a distributed wrapper.
        combiner: Makes one scalar of the losses.
        tasks: Names of the tasks, in the order of ``task_ids``.
        accelerator: Runs the backward passes.
        pad_id: For padding rows.
        collate: Makes a batch of a micro-batch, ``pad_id`` and a device.
    """

    def __init__(
        self,
        forward: nn.Module,
        combiner: LossCombiner,
        *,
        tasks: Sequence[str],
        accelerator: Accelerator,
        pad_id: int,
        collate: Callable[[Any, int, torch.device], Batch] = collate,
    ) -> None:
        self.forward = forward
        self.combiner = combiner
        self.tasks = tasks
        self.accelerator = accelerator
        self.pad_id = pad_id
        self.collate = collate
        for parameter in combiner.parameters():
            # In place: the optimizer already holds the parameter.
            parameter.data = parameter.data.to(accelerator.device)

    def accumulate(self, micro_batches: Sequence[Any], tokens: Sequence[int], step: int) -> float:
        """Add up the gradients of this process's micro-batches.

        Args:
            micro_batches: Those of this process in the step, as ``collate`` takes them.
            tokens: Labelled tokens of the step by task, over all processes.
            step: Optimizer step, from 0.

        Returns:
            The loss of the step over all processes.

        Raises:
            NonFiniteLoss: The loss became NaN or infinite; names the step and the rows.
        """
        accelerator = self.accelerator
        total = torch.zeros((), device=accelerator.device)
        for number, micro_batch in enumerate(micro_batches):
            batch = self.collate(micro_batch, self.pad_id, accelerator.device)
            # Gradients travel between processes with the last micro-batch only.
            last = number == len(micro_batches) - 1
            with torch.enable_grad() if last else accelerator.no_sync(self.forward):
                loss = self._loss(batch, tokens, step)
                # Distributed wrappers average over processes; the shares already sum to one over all of them.
                accelerator.backward(loss * accelerator.num_processes)
            total += loss.detach()
        for parameter in self.combiner.parameters():
            if parameter.requires_grad:
                # Zero where this process had none of a task: every process must take part in the exchange.
                mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = accelerator.reduce(mine, reduction="mean")
        return float(accelerator.reduce(total, reduction="sum"))

    def _loss(self, batch: Batch, tokens: Sequence[int], step: int) -> Tensor:
        sums, counts, aux = self.forward(batch)
        labelled = counts.new_zeros(len(tokens)).index_add(0, batch.task_ids, counts).tolist()
        share = sum(labelled) / sum(tokens)
        by_task = sums.new_zeros(len(tokens)).index_add(0, batch.task_ids, sums)
        # Divided by the share they are multiplied with below: over the step each task's loss is its mean.
        # A task that is absent has no loss; zero would look like a perfect one.
        losses = {
            f"task.{name}": by_task[task] / (tokens[task] * share)
            for task, name in enumerate(self.tasks)
            if labelled[task]
        }
        loss = self.combiner(losses | aux, step) * share
        if not torch.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss at step {step} is {loss.item()}, on rows {', '.join(batch.rows)}",
                fix="lower train.learning_rate, set train.max_gradient_norm, or look at those rows",
            )
        return loss
