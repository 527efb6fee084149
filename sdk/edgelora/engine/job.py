"""One run's steps, in the order `edgelora.run.run` takes them."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from edgelora.capabilities import Calibrated
from edgelora.engine import base, evaluate, inject, pack, train
from edgelora.engine.allocator import return_holes
from edgelora.engine.batches import DealtBatches
from edgelora.engine.checkpointing import enable_checkpointing
from edgelora.engine.compute import make_accelerator
from edgelora.engine.conditions import fix_conditions, restore_conditions, seed_everything
from edgelora.engine.data import Dataset, load_dataset
from edgelora.engine.effect import changes_something
from edgelora.engine.estimating.settling import settle, tell_peak
from edgelora.engine.memory import peaks, reset_peaks
from edgelora.engine.past_factors import check_past, read_past
from edgelora.engine.past_sites import Past
from edgelora.engine.positions import check_lengths
from edgelora.engine.report import QuietReporter, Reporter
from edgelora.engine.resuming import compare_bases, compare_plans, digests_of
from edgelora.engine.run_folder import RunFolder
from edgelora.engine.source import source_for, source_weights
from edgelora.engine.versions import library_versions
from edgelora.engine.whole_model import adapted_model
from edgelora.errors import PlanError, ResumeMismatch
from edgelora.known_bases import remember_base
from edgelora.manifest import MANIFEST_NAME, Manifest, read_manifest
from edgelora.manifest.base_files import check_base_unchanged, state_of_base
from edgelora.manifest.base_identity import identify_base
from edgelora.plan import Plan
from edgelora.protocols import Measurement


class Job:
    """A plan being carried out."""

    def __init__(self, plan: Plan, reporter: Reporter | None = None) -> None:
        if not plan.recipe.data:
            raise PlanError("the recipe names no data to train on", fix="add: data: [{path: train.jsonl}]")
        self.plan = plan
        self.asked = plan
        self.reporter = reporter or QuietReporter()
        self.folder = RunFolder(plan.recipe.out)
        self.started_at = datetime.now(UTC)
        routed = "TaskAware" in plan.parts["adapter"].part.abilities
        self.accelerator = make_accelerator(
            self.folder.path, tensorboard=plan.recipe.train.tensorboard, routed=routed
        )
        self.place = base.locate_base(plan.recipe.base, plan.recipe.revision)
        self.adapter = plan.build("adapter")
        self.tokenizer = base.load_tokenizer(self.place)
        self.peak_bytes: dict[str, int] = {}
        self.tokens = 0
        self.steps = 0
        self.trainable = 0
        self.rank_pattern: dict[str, int] = {}
        self.past: Past = {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's folder; of several processes, the main one does.

        Raises:
            RunLocked: Another run holds it.
        """
        with self.folder.lock() if self.accelerator.is_main_process else nullcontext():
            yield

    def begin(self, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """Fix the conditions of the run and return the checkpoint to go on from, if any.

        Raises:
            RunExists: There is a run, and neither ``resume`` nor ``overwrite`` was asked for.
            ResumeMismatch: The run was started with another plan, other data, or under other conditions.
            WrongBase: An earlier adapter the recipe goes on from was trained on another base.
        """
        reset_peaks()
        # Before the base is hashed, which takes a minute where it is large and new.
        if not (resume or overwrite) and self.accelerator.is_main_process:
            self.folder.check_free()
        for note in self.plan.notes:
            self.reporter.message(f"note: {note}")
        settings = self.plan.recipe.train
        self.conditions = fix_conditions(settings, self.accelerator.device, self.accelerator.num_processes)
        named = "micro" if self.plan.recipe.base == "micro" else None
        self.check_base = partial(check_base_unchanged, self.place, state_of_base(self.place))
        self.identity = identify_base(self.place, repo=named)
        check_past(self.plan, self.identity, self.place)
        checkpoint = None
        if resume:
            checkpoint = self.folder.latest_checkpoint()
            compare_plans(checkpoint["plan"], self._document())
            compare_bases(checkpoint["base"], self.identity, self.place)
            restore_conditions(checkpoint["conditions"], self.conditions)
            self.conditions = checkpoint["conditions"]
            if self.accelerator.is_main_process:
                self.folder.forget_after(checkpoint["step"])
            self.reporter.message(f"resuming after step {checkpoint['step']}")
        if settings.tensorboard:
            self.accelerator.init_trackers("tensorboard")
        return checkpoint

    def load_data(self) -> Dataset:
        """Read, tokenize and split the recipe's data."""
        recipe = self.plan.recipe
        dataset = load_dataset(recipe.data, self.tokenizer, max_length=recipe.train.max_length)
        for line in dataset.report.lines():
            self.reporter.message(line)
        return dataset

    def settle(self, dataset: Dataset, checkpoint: dict[str, Any] | None) -> None:
        """Place the base within the memory budget, if there is one; a resumed run keeps its placement.

        Raises:
            MemoryBudgetExceeded: No placement is predicted to fit.
        """
        self.plan = settle(
            self.plan, dataset, self.conditions, resumed=checkpoint is not None, reporter=self.reporter,
            device=self.accelerator.device,
        )  # fmt: skip

    def load_base(self) -> Any:
        """The frozen base, quantized as it is read; refused if it changed since it was identified."""
        self.reporter.message(f"loading base {self.plan.recipe.base}")
        model = base.load_base(self.plan, self.accelerator.device)
        self.check_base()
        if self.plan.recipe.train.is_checkpointed:
            enable_checkpointing(model)
        return model

    def evaluate_base(self, model: Any, dataset: Dataset) -> dict[str, Measurement]:
        """Measure the bare base, where the recipe wants it."""
        if not self.plan.recipe.train.evaluate_base:
            return {}
        self.reporter.message("measuring the bare base")
        return self._measure(model, {}, dataset)

    def inject(self, model: Any) -> tuple[Any, Mapping[str, nn.Module]]:
        """The adapted model and its layers, beside its past; seeded before the adapter draws its start.

        Raises:
            PlanError: Nothing of the adapter learns.
        """
        self.past = read_past(model, self.plan)
        seed_everything(self.plan.recipe.train.seed, step=-1)
        source = source_for(self.adapter, self.place)
        layers = inject.inject(model, self.plan, self.adapter, source, self.past)
        self.check_base()
        # Quantizing and starting adapters leave holes between what stays, more than a step would fill.
        return_holes()
        self.trainable = count = inject.count_trainable(layers, self.plan)
        adapted = f"{len(layers)} linears" if layers else "the model as a whole"
        self.reporter.message(f"{adapted} adapted, {count:,} trainable parameters")
        if missed := inject.unreachable_parameters(model, layers):
            self.reporter.message(
                f"no adapter reaches {len(missed)} weights that are not linears, such as {missed[0]}"
            )
        return adapted_model(model, layers), layers

    def train(
        self, model: Any, layers: Mapping[str, nn.Module], dataset: Dataset, checkpoint: dict[str, Any] | None
    ) -> None:
        """Run the training loop.

        Raises:
            PlanError: A row is longer than the base has positions for.
            ResumeMismatch: The data changed since the checkpoint.
        """
        if said := check_lengths(model, dataset):
            self.reporter.message(said)
        if checkpoint is not None and checkpoint["data"] != dataset.train_digest:
            raise ResumeMismatch(
                "the training rows are not those the run was started with",
                fix="restore the data files, or start again into another 'out'",
            )
        if checkpoint is None and isinstance(self.adapter, Calibrated):
            settings, device = self.plan.recipe.train, self.accelerator.device
            batches = DealtBatches(
                dataset.train, layers, self.tokenizer, device, settings.batch_size, seed=settings.seed
            )
            self.adapter.calibrate(model, layers, iter(batches))
        optimizer = self.plan.recipe.train.optimizer
        if optimizer.startswith("paged") and self.accelerator.device.type == "cpu":
            self.reporter.message(f"{optimizer} is not paged on a CPU: its state stays in memory")
            warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        around = train.Surroundings(
            accelerator=self.accelerator,
            folder=self.folder,
            reporter=self.reporter,
            tokenizer=self.tokenizer,
            stamp={
                "conditions": self.conditions,
                "plan": self._document(),
                "data": dataset.train_digest,
                "base": digests_of(self.identity),
            },
            evaluate=lambda: self._measure(model, layers, dataset),
            check_base=self.check_base,
        )
        outcome = train.train(model, layers, self.plan, dataset, around, checkpoint)
        self.tokens, self.steps, self.rank_pattern = outcome.tokens, outcome.steps, outcome.rank_pattern
        self.peak_bytes = peaks()
        tell_peak(self.plan, self.peak_bytes, self.reporter)

    def evaluate(
        self, model: Any, layers: Mapping[str, nn.Module], dataset: Dataset
    ) -> dict[str, Measurement]:
        """Measure the trained model, and say of which evaluators it has nothing to measure."""
        return self._measure(model, layers, dataset, self.reporter.message)

    def _measure(
        self,
        model: Any,
        layers: Mapping[str, nn.Module],
        dataset: Dataset,
        tell: Callable[[str], None] = lambda line: None,
    ) -> dict[str, Measurement]:
        return evaluate.evaluate(
            model, layers, self.plan, tokenizer=self.tokenizer, dataset=dataset,
            source=source_weights(self.place), past=self.past, tell=tell,
        )  # fmt: skip

    def pack(
        self,
        model: Any,
        layers: Mapping[str, nn.Module],
        dataset: Dataset,
        base_measurements: Mapping[str, Measurement],
        measurements: Mapping[str, Measurement],
    ) -> Manifest:
        """Write the adapter directory; of several processes, the main one does.

        Raises:
            ModelError: The files of the base changed since it was identified.
        """
        self.check_base()
        if self.accelerator.is_main_process:
            model.eval()
            if layers and not changes_something(layers, len(dataset.tasks)):
                self.reporter.message(
                    "the adapter changes no output of the base, and is refused where it is applied: look at "
                    "its ranks and weights of tasks, or train longer"
                )
            remember_base(self.identity, self.place)
            record = self._record(dataset, base_measurements, measurements)
            pack.pack(model, layers, self.plan, record, self.folder.adapter)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return read_manifest(self.folder.adapter / MANIFEST_NAME)

    def _record(
        self,
        dataset: Dataset,
        base_measurements: Mapping[str, Measurement],
        measurements: Mapping[str, Measurement],
    ) -> pack.RunRecord:
        return pack.RunRecord(
            base=self.identity,
            dataset=dataset,
            steps=self.steps,
            tokens=self.tokens,
            threads=self.conditions["threads"],
            started_at=self.started_at,
            versions=library_versions(),
            peak_bytes=self.peak_bytes,
            recipe_digest=recipe_digest(self.asked),
            base_measurements=base_measurements,
            measurements=measurements,
            rank_pattern=self.rank_pattern,
        )

    def _document(self) -> dict[str, Any]:
        return self.asked.as_document()


def recipe_digest(plan: Plan) -> str:
    """``sha256:`` of the resolved recipe, as manifests name it: equal for runs that ask for the same.

    Where files lie does not count: ``out`` is left out, of each data path only the name is taken, and of each
    earlier adapter the digest of its manifest.
    """
    recipe = plan.as_document()["recipe"]
    del recipe["out"]
    recipe["past"] = [past.digest for past in plan.past]
    for source in recipe["data"]:
        source["path"] = Path(source["path"]).name
    document = json.dumps(recipe, sort_keys=True).encode()
    return f"sha256:{hashlib.sha256(document).hexdigest()}"
