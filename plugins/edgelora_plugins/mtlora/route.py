"""Which task each row of a batch is of."""

from __future__ import annotations

import torch
from torch import Tensor

from edgelora.errors import PlanError, PluginBug


class Route:
    """One route for all layers of an adapter, so that it is read from the device once for all of them."""

    def __init__(self) -> None:
        self.task_ids = torch.tensor(0)
        self.version = 0
        self.present: tuple[int, ...] = (0,)
        self.masks: dict[object, Tensor] = {}

    def set(self, task_ids: Tensor, task_count: int) -> None:
        """Take int64 (batch,), or () where every row is of one task.

        A tensor that is routed already is not read again: each layer hands in the same one.

        Raises:
            PluginBug: An id is not one of ``task_count`` tasks.
        """
        # Tensors made under inference mode have no version, so they are read each time.
        version = -1 if task_ids.is_inference() else task_ids._version
        if task_ids is self.task_ids and version == self.version >= 0:
            return
        present = tuple(task_ids.unique().tolist())
        if strange := [task for task in present if not 0 <= task < task_count]:
            raise PluginBug(
                f"layers are routed to task number {strange[0]} and know {task_count}",
                fix=f"route rows to numbers from 0 to {task_count - 1}",
            )
        self.task_ids, self.version, self.present, self.masks = task_ids, version, present, {}

    @property
    def is_single(self) -> bool:
        """Whether every row is of one task whatever the batch."""
        return self.task_ids.dim() == 0

    def mask(self, ranks: list[int], x: Tensor) -> Tensor | None:
        """Which of the present tasks' rank components act on each row; None where all do.

        Args:
            ranks: Of the present tasks' factors, in order.
            x: The layer's input, (batch, ..., in).

        Returns:
            (batch, 1, ..., sum of ranks), in the dtype of ``x``.

        Raises:
            PlanError: The input is of another number of rows than the route.
        """
        if self.is_single:
            return None
        if x.dim() < 2 or len(x) != len(self.task_ids):
            raise PlanError(
                f"a layer that is routed for {len(self.task_ids)} rows got an input of shape "
                f"{tuple(x.shape)}: its tokens come without their rows, as experts get them, or the route is "
                "of another batch",
                fix="leave experts out with adapter.exclude_modules; in code of your own, route before each "
                "forward",
            )
        key = (*ranks, x.dim(), x.dtype, x.device)
        if key not in self.masks:
            tasks = [task for task, rank in zip(self.present, ranks, strict=True) for _ in range(rank)]
            chosen = self.task_ids.to(x.device)[:, None] == torch.tensor(tasks, device=x.device)
            self.masks[key] = chosen.to(x.dtype).view(len(x), *(1,) * (x.dim() - 2), -1)
        return self.masks[key]
