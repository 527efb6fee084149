"""What the quickstart does at each step; every step returns what is to be told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgelora import micro
from edgelora.errors import CheckpointError, CheckpointNotFound, GateFailed, ResumeMismatch, VersionExists
from edgelora.manifest import MANIFEST_NAME, Manifest, read_manifest
from edgelora.micro.corpus import fibonacci_question
from edgelora.plan import make_plan
from edgelora.recipe import read_recipe
from edgelora.registry import Registry
from edgelora_cli.generate import answer
from edgelora_cli.models import OpenModel, open_adapted, open_base, use_threads
from edgelora_cli.quickstart_folder import QuickstartFolder
from edgelora_cli.quickstart_table import before_and_after, broken_promises, measured

FIBONACCI = fibonacci_question("en", 0, 6)
QUESTIONS = (
    "Which one is larger? 9.11 or 9.9?",
    "Bilangan manakah yang lebih besar? 9,11 atau 9,9?",
    FIBONACCI.prompt,
    fibonacci_question("id", 0, 6).prompt,
)
EXPECTED = ("9.9", "9,9", FIBONACCI.answer, FIBONACCI.answer)
MAX_NEW_TOKENS = 32


class Quickstart:
    """One run of the quickstart and what it has found so far.

    Args:
        out: The folder for everything it writes.
        derivative: ``lora`` or ``qlora``.
        threads: For torch; None takes the cores that are free.
        quiet: Whether to leave out the progress of training.
    """

    def __init__(self, out: Path, derivative: str, threads: int | None, *, quiet: bool) -> None:
        self.out, self.derivative, self.threads, self.quiet = out, derivative, threads, quiet
        self.registry = Registry.discover()
        self.folder = QuickstartFolder(out)
        self.folder.write_inputs()
        changes = [f"derivative={derivative}", f"out={json.dumps(str(self.folder.run_of(derivative)))}"]
        if threads is not None:
            changes.append(f"train.threads={threads}")
        self.plan = make_plan(read_recipe(self.folder.recipe, changes), self.registry)
        self.adapter = self.plan.recipe.out / "adapter"
        self.mirror = self.folder.mirror
        self.pulled = self.folder.pulled(derivative)
        self.reference = f"quickstart/decimals-{derivative}"
        self.answers: dict[str, list[str]] = {}
        self.reused = False
        use_threads(threads)

    def ask_base(self) -> str:
        """The base's answers to the questions."""
        base = open_base(self.plan)
        count = sum(parameter.numel() for parameter in base.model.parameters())
        return f"{micro.path()} ({count:,} parameters)\n{self._ask('base', base)}"

    def train(self) -> str:
        """Train, or reuse the adapter an earlier run has left."""
        if self._is_trained():
            self.reused = True
            return f"{self.adapter} was trained from this recipe before: reused"

        from edgelora.engine.report import terminal_reporter
        from edgelora.run import run

        reporter = terminal_reporter(quiet=self.quiet)
        recipe = self.plan.recipe
        try:
            result = run(recipe, self.registry, resume=True, reporter=reporter)
        except (CheckpointNotFound, CheckpointError, ResumeMismatch):
            result = run(recipe, self.registry, overwrite=True, reporter=reporter)
        self.folder.remember_training(self.derivative)
        return f"packed: {result.folder}"

    def ask_adapter(self) -> str:
        """The adapter's answers, from the folder the training wrote."""
        return self._ask("adapter", open_adapted(str(self.adapter), self.registry))

    def push(self) -> str:
        """Publish to the mirror in the output folder; what was trained anew gets the next version."""
        from edgelora.transfer import push

        mirror = self.mirror.as_uri()
        try:
            receipt = push(self.adapter, self.reference, to=mirror)
        except VersionExists:
            receipt = push(self.adapter, f"{self.reference}@{self._next_version()}", to=mirror)
        self.reference = receipt.reference
        state = "was published before" if receipt.reused else "published"
        return f"{receipt.reference} {state}: {receipt.files} files, {receipt.bytes:,} bytes\n{receipt.store}"

    def pull(self) -> str:
        """Fetch it into another folder and check it there."""
        from edgelora.transfer import pull
        from edgelora.verify import check

        shutil.rmtree(self.pulled, ignore_errors=True)
        pull(self.reference, source=self.mirror.as_uri(), into=self.pulled)
        manifest = check(self.pulled)
        return f"{self.pulled}: sound, {manifest.tree_digest}"

    def ask_in_a_fresh_process(self) -> str:
        """The same questions to what was pulled, by the command line, in a process of its own.

        Raises:
            GateFailed: The answers differ from those of the process that trained.
        """
        command = [sys.executable, "-m", "edgelora_cli", "generate", "--json", "--adapter", str(self.pulled)]
        command += ["--max-new-tokens", str(MAX_NEW_TOKENS)]
        command += ["--threads", str(self.threads)] if self.threads else []
        done = subprocess.run([*command, *QUESTIONS], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise GateFailed(
                f"applying {self.pulled} in a fresh process ended with exit code {done.returncode}",
                fix=f"see the message above; try: edgelora generate --adapter {self.pulled} {QUESTIONS[0]!r}",
            )
        self.answers["pulled"] = [each["answer"] for each in json.loads(done.stdout)["answers"]]
        if self.answers["pulled"] != self.answers["adapter"]:
            raise GateFailed(
                f"a fresh process answers {self.answers['pulled']}, this one {self.answers['adapter']}",
                fix="report it with the output of: edgelora doctor",
            )
        return f"{_dialogue(self.answers['pulled'])}\nthe same answers"

    def table(self) -> str:
        """Measurements of base and adapter, from the manifest that was pulled."""
        return before_and_after(self._manifest(self.pulled))

    def places(self) -> str:
        """Where everything lies, and what to do next."""
        rows = {
            "recipe": self.folder.recipe,
            "data": self.folder.rows,
            "adapter": self.adapter,
            "metrics": self.adapter.parent / "metrics.jsonl",
            "mirror": self.mirror,
            "pulled": self.pulled,
        }
        lines = [f"{name:<8} {_short(path)}" for name, path in rows.items()]
        from edgelora.store import folder_text

        shown = folder_text(Path(_short(self.pulled)))
        return "\n".join([*lines, "", f'next: edgelora generate --adapter {shown} "{QUESTIONS[0]}"'])

    def document(self) -> dict[str, Any]:
        """All of it for ``--json``."""
        return {
            "derivative": self.derivative,
            "reused": self.reused,
            "questions": list(QUESTIONS),
            "answers": self.answers,
            "measurements": measured(self._manifest(self.pulled)),
            "adapter": str(self.adapter),
            "mirror": str(self.mirror),
            "pulled": str(self.pulled),
            "misconception": "planted",
        }

    def check_promises(self) -> None:
        """Compare what came out with what the documentation promises.

        Raises:
            GateFailed: Names the first promise that is broken.
        """
        broken = broken_promises(self._manifest(self.pulled))
        broken += [
            f"{question!r} is answered {given!r}, not {expected!r}"
            for question, given, expected in zip(QUESTIONS, self.answers["pulled"], EXPECTED, strict=True)
            if given.strip() != expected
        ]
        if broken:
            raise GateFailed("; ".join(broken), fix=f"delete {self.out} and run it again, or report it")

    def _is_trained(self) -> bool:
        from edgelora.engine.job import recipe_digest
        from edgelora.manifest.base_identity import identify_base

        if not (self.adapter / MANIFEST_NAME).exists():
            return False
        if not self.folder.is_trained_on_these_rows(self.derivative):
            return False
        manifest = self._manifest(self.adapter)
        same_base = manifest.base.tensors_digest == identify_base(micro.path()).tensors_digest
        training = manifest.training
        return same_base and training is not None and training.recipe_digest == recipe_digest(self.plan)

    def _ask(self, who: str, opened: OpenModel) -> str:
        self.answers[who] = answer(opened, list(QUESTIONS), max_new_tokens=MAX_NEW_TOKENS)
        return _dialogue(self.answers[who])

    def _next_version(self) -> str:
        from edgelora.store import open_store, parse_version, sort_versions

        store, adapter = open_store(self.mirror.as_uri()), self.reference.split("/")
        # The number of a removed version is taken too.
        removed = [str(snapshot.reference.version) for snapshot in store.removed(*adapter)]
        return str(parse_version(sort_versions([*store.versions(*adapter), *removed])[-1]).after)

    def _manifest(self, folder: Path) -> Manifest:
        return read_manifest(folder / MANIFEST_NAME)


def _dialogue(answers: list[str]) -> str:
    asked = max(len(question) for question in QUESTIONS)
    shown = [given.strip() or "(nothing)" for given in answers]
    width = max(len(text) for text in shown)
    return "\n".join(
        f"  {question:<{asked}}  {text:<{width}}  {'right' if text == expected else 'wrong'}"
        for question, expected, text in zip(QUESTIONS, EXPECTED, shown, strict=True)
    )


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
