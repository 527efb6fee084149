"""What training on a new task took away of the old ones."""

from __future__ import annotations

from edgelora.digests import questions_digest
from edgelora.intervals import paired_interval, wilson_interval
from edgelora.layers.answers import answered_right, examples_of
from edgelora.layers.start import as_started
from edgelora.protocols import Evaluation, Measurement
from edgelora_plugins.clora.options import ForgettingOptions


class Forgetting:
    """Exact match of earlier tasks before training less that after it, on the same held-out questions.

    Before is the model that training began with, base and past: it is asked in the same run, so that the two
    are paired question by question, and no measurement from elsewhere has to be believed.
    """

    def __init__(self, options: ForgettingOptions) -> None:
        self.options = options

    def __call__(self, run: Evaluation) -> dict[str, Measurement]:
        """``"<task>.forgetting"``, negative where more is known than before, and ``"<task>.before"``."""
        measurements: dict[str, Measurement] = {}
        if not run.layers:
            run.tell("there is no adapter with layers to set back")
        for task in self.options.chosen(run.plan) if run.layers else ():
            examples = examples_of(run, task, self.options)
            if not examples:
                run.tell(f"no held-out row of task {task!r} asks a question")
                continue
            after = answered_right(run, task, examples, self.options)
            with as_started(run.layers, run.past):
                before = answered_right(run, task, examples, self.options)
            measurements |= _measured(
                task,
                before,
                after,
                questions_digest((example.prompt, example.response) for example in examples),
            )
        return measurements


def _measured(task: str, before: list[bool], after: list[bool], digest: str) -> dict[str, Measurement]:
    n = len(before)
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    gained = sum(new and not old for old, new in zip(before, after, strict=True))
    known = sum(before)
    return {
        f"{task}.forgetting": Measurement(
            (lost - gained) / n, n, *paired_interval(lost, gained, n), split_digest=digest
        ),
        f"{task}.before": Measurement(known / n, n, *wilson_interval(known, n), split_digest=digest),
    }
