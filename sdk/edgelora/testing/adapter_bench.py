"""What the checks of adapters share: subjects fresh and trained over each base, and their packed forms."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch

from edgelora.engine.pack import RunRecord, pack
from edgelora.errors import CombinationError, EdgeloraError
from edgelora.manifest.base_identity import identify_base
from edgelora.plan import Plan
from edgelora.plan.options import options_model
from edgelora.testing import tiny
from edgelora.testing.check import skip
from edgelora.testing.fresh import Packed, apply_afresh
from edgelora.testing.part import PartConformance
from edgelora.testing.setting import setting
from edgelora.testing.subject import Subject, make_subject

STEPS = 3


class AdapterBench(PartConformance):
    """Makes the things that `AdapterConformance` looks at, each once per class.

    Attributes:
        quantizers: Bases to try; those that are not installed, or that the adapter refuses, are left out.
    """

    quantizers: ClassVar[tuple[str, ...]] = setting(("baseline:none", "qlora:nf4"))
    learning_rate: ClassVar[float] = setting(1e-2)

    def plans(self, dtype: str = "float32") -> list[Plan]:
        """One for each base the adapter can work on."""
        return self.keep(("plans", dtype), lambda: self._make_plans(dtype))

    def plans_otherwise(self) -> list[Plan]:
        """Over the first base, each with one thing that recipes may choose otherwise."""
        return self.keep("otherwise", self._make_plans_otherwise)

    def subjects(self, dtypes: tuple[str, ...] = ("float32",)) -> Iterator[Subject]:
        """Adapted models that never learned."""
        for dtype in dtypes:
            for plan in self.plans(dtype):
                yield self.keep(
                    ("subject", dtype, self._name(plan)), lambda plan=plan: self.fresh_subject(plan)
                )

    def trained(self) -> Iterator[Subject]:
        """Adapted models after three steps, some of them trained otherwise than by default."""
        for plan in (*self.plans(), *self.plans_otherwise()):
            yield self.keep(("trained", self._name(plan)), lambda plan=plan: self._train(plan))

    def fresh_subject(self, plan: Plan) -> Subject:
        """A newly adapted model."""
        subject = make_subject(plan)
        subject.start_logits = subject.logits()
        return subject

    def over(self, subject: Subject, task: str = "") -> str:
        """How messages name the base and the task."""
        return self._name(subject.plan) + (f", task {task!r}:" if task else ":")

    def failures_afresh(self) -> dict[str, str]:
        """Why a trained adapter could not be packed, or not be applied in a fresh process, by base."""
        return self.keep("failures afresh", self._apply_afresh)

    def logits_file(self, subject: Subject) -> Path:
        """Where the fresh process wrote its logits."""
        return self.place(subject).with_suffix(".pt")

    def skip_unless(self, ability: type) -> None:
        """Skip the check where no layer has an ability."""
        for subject in self.subjects():
            if not any(isinstance(layer, ability) for layer in subject.layers.values()):
                skip(f"its layers are not {ability.__name__}")

    def skip_unless_planned(self, train: Mapping[str, Any]) -> None:
        """Skip the check where the adapter refuses some settings of the training."""
        quantizer = self.plans()[0].parts["quantizer"]
        try:
            self._make_plan(f"{quantizer.plugin}:{quantizer.name}", {}, train)
        except CombinationError as refusal:
            skip(refusal.problem)

    def _make_plans(self, dtype: str) -> list[Plan]:
        installed = {each.qualified_name for each in self.registry().parts("quantizer")}
        plans, refusals = [], []
        for quantizer in self.quantizers:
            if quantizer not in installed:
                continue
            try:
                plans.append(self._make_plan(quantizer, {}, {"dtype": dtype}))
            except CombinationError as refusal:
                refusals.append(refusal.problem)
        if not plans:
            skip("; ".join(refusals) or f"none of {', '.join(self.quantizers)} is installed")
        return plans

    def _make_plans_otherwise(self) -> list[Plan]:
        quantizer = self.plans()[0].parts["quantizer"]
        choices: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {"adapter_dtype": "bfloat16"})]
        if find_spec("bitsandbytes"):
            choices.append(({}, {"optimizer": "adamw-8bit"}))
        if "dropout" in options_model(self.found()).model_fields:
            choices.append(({"dropout": 0.1}, {}))
        name = f"{quantizer.plugin}:{quantizer.name}"
        plans = []
        for options, train in choices:
            with suppress(CombinationError):
                plans.append(self._make_plan(name, options, train))
        return plans

    def _make_plan(self, quantizer: str, options: Mapping[str, Any], train: Mapping[str, Any]) -> Plan:
        found = self.found()
        parts = {
            "quantizer": quantizer,
            "adapter": {"name": found.qualified_name, **tiny.small_options(found), **self.options, **options},
            "train": {"learning_rate": self.learning_rate, **train},
        }
        tasks = tiny.TASKS if "TaskAware" in found.part.abilities else ("main",)
        return tiny.plan_with(self.registry(), found, parts, tasks=tasks)

    def _train(self, plan: Plan) -> Subject:
        subject = make_subject(plan)
        before = subject.held_loss()
        subject.train(STEPS)
        self._kept["loss", self.over(subject)] = (before, subject.held_loss())
        return subject

    def _apply_afresh(self) -> dict[str, str]:
        packed: list[Packed] = []
        failures: dict[str, str] = {}
        for subject in self.trained():
            name, place = self.over(subject), self.place(subject)
            try:
                with home_of_its_own():
                    pack(subject.model, subject.layers, subject.plan, record_of(subject), place)
            except EdgeloraError as error:
                failures[name] = str(error)
            else:
                packed.append(
                    Packed(name, str(place), str(tiny.base_folder()), str(self.logits_file(subject)))
                )
        return failures | apply_afresh(packed)

    def place(self, subject: Subject) -> Path:
        """Where a trained adapter is packed."""
        found, case = self.found(), re.sub(r"\W+", "-", self._name(subject.plan))
        return tiny.folder() / f"{found.plugin}-{found.part.name}-{case}-{id(type(self)):x}" / "adapter"

    @staticmethod
    def _name(plan: Plan) -> str:
        quantizer, train = plan.parts["quantizer"].name, plan.recipe.train
        told = ["over the plain base" if quantizer == "none" else f"over {quantizer}"]
        if train.adapter_dtype != "float32":
            told.append(f"adapter_dtype {train.adapter_dtype}")
        if train.optimizer != "adamw":
            told.append(train.optimizer)
        if dropout := plan.parts["adapter"].options.model_dump().get("dropout"):
            told.append(f"dropout {dropout}")
        return ", ".join(told)


def record_of(subject: Subject) -> RunRecord:
    """What a manifest says of the few steps of a subject."""
    return RunRecord(
        base=identify_base(tiny.base_folder()),
        dataset=subject.dataset,
        steps=len(subject.losses),
        tokens=1,
        threads=torch.get_num_threads(),
        started_at=datetime.now(UTC),
        versions={},
        peak_bytes={},
        recipe_digest="sha256:" + "0" * 64,
        base_measurements={},
        measurements={},
        rank_pattern={},
    )


@contextmanager
def home_of_its_own() -> Iterator[None]:
    """Digests of the tiny base do not go into the user's cache."""
    found: Any = os.environ.get("EDGELORA_HOME")
    os.environ["EDGELORA_HOME"] = str(tiny.folder() / "home")
    try:
        yield
    finally:
        if found is None:
            del os.environ["EDGELORA_HOME"]
        else:
            os.environ["EDGELORA_HOME"] = found
