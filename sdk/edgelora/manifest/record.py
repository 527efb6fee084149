"""How an adapter was trained and measured, where it runs, and what it is for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, field_validator

from edgelora.manifest.fields import (
    Array,
    Count,
    DecimalText,
    Digest,
    Flag,
    Free,
    Moment,
    Positive,
    Text,
    VersionRange,
    Wire,
    Word,
    Words,
)


class TrainingDataset(Wire):
    """One source of training rows."""

    name: Text
    revision: Text | None = None
    digest: Digest | None = None
    license: Text | None = None
    rows: Count | None = None
    held_out_digest: Digest | None = None
    """Of the rows kept out of training."""


class Training(Wire):
    """The run that made the adapter. Decimal numbers are strings."""

    framework: Text | None = None
    seed: Count
    steps: Count
    """Optimizer steps."""
    epochs: DecimalText | None = None
    tokens: Count | None = None
    hyperparameters: Free = Field(default_factory=dict)
    datasets: Array[TrainingDataset] = ()
    versions: dict[Text, Text] = Field(default_factory=dict)
    """Of the libraries in use, by distribution."""
    recipe_digest: Digest | None = None
    peak_memory_bytes: dict[Word, Count] | None = None
    """By kind: ``rss``, ``cudaAllocated``, ``cudaReserved``."""
    code_commit: Text | None = None
    started_at: Moment | None = None
    finished_at: Moment | None = None


class EvaluationDataset(Wire):
    """What was measured on, where a name helps."""

    name: Text
    digest: Digest | None = None
    split: Text | None = None


class EvaluationEntry(Wire):
    """One measurement, with the size of its sample and, where known, its 95 % interval."""

    metric: Text
    value: DecimalText
    n: Count
    """Items measured."""
    low: DecimalText | None = None
    high: DecimalText | None = None
    phase: Literal["base", "adapter"] | None = None
    """Measured before training, or with the adapter."""
    task: Word | None = None
    split_digest: Digest | None = None
    unit: Text | None = None
    dataset: EvaluationDataset | None = None
    harness: Text | None = None
    seed: Count | None = None
    higher_is_better: Flag | None = None


class Task(Wire):
    """Something the adapter can do."""

    type: Word
    head: Text | None = None
    labels: Array[Text] | None = None


class MinMemory(Wire):
    """Bytes of memory a device must have."""

    load: Count | None = None
    infer: Count | None = None


class Hardware(Wire):
    """What a device must offer."""

    min_memory_bytes: MinMemory | None = None
    dtypes: Words | None = None
    instruction_sets: Words | None = None
    accelerators: Words | None = None
    max_latency_ms: DecimalText | None = None


class Fallback(Wire):
    """Another form of the adapter, for runtimes that cannot read the first."""

    file: Text
    format: Word


class Runtime(Wire):
    """Which programs can read the adapter."""

    edgelora: VersionRange | None = None
    peft: VersionRange | None = None
    formats: Words | None = None
    fallback: Fallback | None = None


class Quantization(Wire):
    """How the adapter's own tensors are quantized."""

    method: Word
    bits: Positive
    group_size: Positive | None = None
    scheme: Word | None = None


class Guardrail(Wire):
    """A filter that belongs to the adapter."""

    id: Word
    required: Flag
    digest: Digest | None = None


class Use(Wire):
    """What the adapter is for, and what it is not for."""

    intended: Text | None = None
    out_of_scope: Text | None = None
    guardrails: Array[Guardrail] | None = None
    risk: Text | None = None


class Security(Wire):
    """Promises about the content."""

    pickle: Annotated[StrictBool, Field(json_schema_extra={"const": False})] | None = None

    @field_validator("pickle")
    @classmethod
    def _holds_none(cls, pickle: bool | None) -> bool | None:
        if pickle:
            raise ValueError("an adapter holds no pickle")
        return pickle


class DerivedFrom(Wire):
    """An adapter this one was made from."""

    manifest_digest: Digest
    relation: Word
