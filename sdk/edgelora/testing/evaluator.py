"""What holds for every evaluator, tried on a tiny adapted model."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from edgelora.engine.batches import PaddedBatches
from edgelora.engine.source import SourceWeights
from edgelora.errors import CombinationError
from edgelora.parts import Kind
from edgelora.protocols import Evaluation, Example, Measurement
from edgelora.testing import tiny
from edgelora.testing.check import require, skip
from edgelora.testing.compare import bits_differ
from edgelora.testing.part import PartConformance
from edgelora.testing.random_state import random_state_left_as_found
from edgelora.testing.setting import setting
from edgelora.testing.subject import Subject, make_subject

_NAME = re.compile(r"[\w-]+(\.[\w-]+)+(@[\w-]+)?")


class EvaluatorConformance(PartConformance):
    """An evaluator of an installed plugin. Give slow ones smaller ``options``.

    Attributes:
        quantizer: Of the base to measure over, as recipes name it; left empty, the first of the evaluator's
            own plugin, else the first of ``quantizers`` that is installed.
    """

    kind: ClassVar[Kind] = "evaluator"
    quantizer: ClassVar[str] = setting("")
    quantizers: ClassVar[tuple[str, ...]] = ("qlora:nf4", "baseline:none")

    def subject(self) -> Subject:
        """A model over a quantized base, with an adapter that changes what it computes."""
        return self.keep("subject", lambda: self._make_subject(self._quantizer(), "float32"))

    def subjects(self) -> Iterator[tuple[str, Subject]]:
        """The same, and one whose base is in bfloat16 and not quantized, each with how messages name it.

        The second is left out where the evaluator's options refuse an unquantized base.
        """
        yield "", self.subject()
        try:
            half = self.keep("half", lambda: self._make_subject("baseline:none", "bfloat16"))
        except CombinationError:
            return
        yield "over a base in bfloat16, ", half

    def _quantizer(self) -> str | dict[str, Any]:
        if self.quantizer:
            return self.quantizer
        installed = {each.qualified_name: each for each in self.registry().parts("quantizer")}
        usual = [installed[name] for name in self.quantizers if name in installed]
        first = [*tiny.own_parts(self.registry(), self.found(), "quantizer"), *usual][0]
        return {"name": first.qualified_name, **first.part.kit.get("options", {})}

    def _make_subject(self, quantizer: str | dict[str, Any], dtype: str) -> Subject:
        adapter = tiny.companion(self.registry(), self.found())
        parts: dict[str, Any] = {
            "evaluators": [{"name": self.found().qualified_name, **self.options}],
            "quantizer": quantizer,
            "train": {"dtype": dtype},
        }
        made = make_subject(tiny.plan_with(self.registry(), adapter, parts, tasks=tiny.TASKS))
        made.train(2)
        made.model.eval()
        return made

    def evaluation(self, subject: Subject | None = None, **changes: Any) -> Evaluation:
        """What the engine hands over, held-out rows of two tasks included."""
        subject = subject or self.subject()
        rows = subject.dataset.held_out
        run = Evaluation(
            model=subject.model,
            tokenizer=tiny.tokenizer(),
            layers=subject.layers,
            batches=PaddedBatches(rows, subject.layers, tiny.tokenizer(), torch.device("cpu")),
            tasks=subject.dataset.tasks,
            plan=subject.plan,
            seed=3407,
            examples=[
                Example(subject.dataset.tasks[row.task], row.prompt or "", row.response or "") for row in rows
            ],
            split_digest=subject.dataset.held_out_digest,
            source=SourceWeights(tiny.base_folder()),
        )
        return dataclasses.replace(run, **changes)

    def measure(self, run: Evaluation) -> dict[str, Measurement]:
        """The measurements of a freshly built evaluator."""
        found: dict[str, Measurement] = self.planned().build()(run)
        return found

    def measured(self) -> dict[str, Measurement]:
        """The measurements of the ordinary run, made once."""
        return self.keep("measured", lambda: self.measure(self.evaluation()))

    def test_it_returns_measurements(self) -> None:
        """A value inside its interval, and how many examples are behind it."""
        require_measurements(self.measured(), "on held-out rows")
        require(
            self.measured(), "nothing was measured on an adapted model with held-out rows; return something"
        )

    def test_it_works_over_a_base_in_bfloat16(self) -> None:
        """Unquantized, as most models are trained: it measures there too, or nothing."""
        for where, subject in self.subjects():
            run = self.evaluation(subject)
            told = where.removesuffix(", ") or "over the usual base"
            require_measurements(self._safely(run, told), told)

    def test_its_names_say_what_was_measured(self) -> None:
        """Keys are ``<task>.<metric>`` or ``<suite>.<row>``; after either may come ``@<setting>``."""
        wrong = [name for name in self.measured() if not _NAME.fullmatch(name)]
        require(
            not wrong,
            f'{", ".join(wrong)} is no name of a measurement; write f"{{task}}.metric" or suite.row',
        )

    def test_its_accuracies_are_shares(self) -> None:
        """What ``Part.accuracies`` names is measured of each task and lies between 0 and 1."""
        accuracies, found = self.found().part.accuracies, self.measured()
        if not accuracies:
            skip("Part.accuracies names no metric that is a share of right answers")
        for name in (f"{task}.{metric}" for task in tiny.TASKS for metric in accuracies):
            require(
                name in found and 0 <= found[name].value <= 1,
                f"{name} is {found[name].value if name in found else 'not measured'}; Part.accuracies is for "
                "shares of right answers, measured as <task>.<metric>",
            )

    def test_the_same_model_measures_the_same(self) -> None:
        """Twice the same numbers, whatever the global random state."""
        torch.manual_seed(1)
        random.seed(1)
        again = self.measure(self.evaluation())
        first = self.measured()
        different = [
            name for name in first.keys() | again.keys() if repr(first.get(name)) != repr(again.get(name))
        ]
        require(
            not different,
            f"{', '.join(sorted(different))} differs at the second time; draw from a generator seeded "
            "with run.seed, and keep no state between calls",
        )

    def test_the_random_state_is_left_as_found(self) -> None:
        """Python's, numpy's and torch's: an evaluation on the way must not change the training after it."""
        for where, subject in self.subjects():
            run = self.evaluation(subject)
            with random_state_left_as_found(f"{where}a measurement"):
                self.measure(run)

    def test_the_mode_is_left_as_found(self) -> None:
        """Training or evaluation, module by module, also where they are mixed."""
        for where, subject in self.subjects():
            for training in (True, False):
                subject.model.train(training)
                # One that differs from the rest, which a train() of the whole model would lose.
                next(iter(subject.layers.values())).train(not training)
                before = [module.training for module in subject.model.modules()]
                self.measure(self.evaluation(subject))
                after = [module.training for module in subject.model.modules()]
                subject.model.eval()
                require(
                    before == after,
                    f"{where}modules are in another mode than before; remember which were training, and "
                    "restore those",
                )

    def test_the_weights_are_left_as_found(self) -> None:
        """Every bit of the model, what may learn, and no gradients left behind."""
        for where, subject in self.subjects():
            model = subject.model
            before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            may_learn = [parameter.requires_grad for parameter in model.parameters()]
            self.measure(self.evaluation(subject))
            different = bits_differ(before, model.state_dict())
            model.load_state_dict(before, strict=False)
            require(
                not different, f"{where}{different} changed; put weights back as they were, or measure a copy"
            )
            require(
                may_learn == [parameter.requires_grad for parameter in model.parameters()],
                f"{where}which parameters may learn changed; restore requires_grad",
            )
            left = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
            model.zero_grad(set_to_none=True)
            require(
                not left, f"{where}gradients are left in {', '.join(left[:3])}; measure under torch.no_grad()"
            )

    def test_it_works_without_held_out_rows(self) -> None:
        """Recipes need not hold anything out: measure what needs no rows, or nothing."""
        run = self.evaluation(batches=[], examples=[], split_digest="")
        require_measurements(self._safely(run, "without held-out rows"), "without held-out rows")

    def test_it_works_on_the_bare_base(self) -> None:
        """``layers`` is empty there."""
        run = self.evaluation(layers={}, model=self._bare_model())
        require_measurements(self._safely(run, "on the bare base"), "on the bare base")

    def test_it_works_without_the_files_of_the_base(self) -> None:
        """``source`` is None where a model was not loaded from a folder."""
        run = self.evaluation(source=None)
        require_measurements(self._safely(run, "without source"), "without source")

    def _safely(self, run: Evaluation, where: str) -> dict[str, Measurement]:
        try:
            return self.measure(run)
        # Whatever a plugin raises here is the finding.
        except Exception as error:
            raise AssertionError(
                f"{where} it raised {type(error).__name__}: {error}; return {{}} where there is nothing to "
                "measure"
            ) from error

    def _bare_model(self) -> Any:
        from edgelora.engine.base import load_base

        return self.keep("bare", lambda: load_base(self.subject().plan, torch.device("cpu")))


def require_measurements(found: object, where: str) -> None:
    """A dict of sound measurements."""
    require(isinstance(found, dict), f"{where} it returned {type(found).__name__}; return a dict")
    assert isinstance(found, dict)
    for name, each in found.items():
        require(isinstance(each, Measurement), f"{name} is {each!r} {where}; make it a Measurement")
        require(
            not math.isnan(each.value) and each.low <= each.value <= each.high,
            f"{name} is {each.value} in [{each.low}, {each.high}] {where}; the interval must hold the "
            "value (edgelora.intervals)",
        )
        require(
            isinstance(each.n, int) and each.n >= 1,
            f"{name} has n = {each.n!r} {where}; leave out what was measured on nothing",
        )
