"""The manifest of an adapter: its models, a strict reader, a deterministic writer, and digests.

`edgelora.manifest.tensors` reads safetensors headers and `edgelora.manifest.base_identity` identifies base
models; spec/v1 is the specification all of this implements.
"""

from edgelora.manifest.base import Base, BaseFile
from edgelora.manifest.components import (
    Component,
    Composition,
    CompositionInput,
    DerivativeRef,
    ExternalInput,
    PartRef,
    PluginRef,
)
from edgelora.manifest.fields import decimal_text
from edgelora.manifest.models import (
    DEFAULT_CHANNEL,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    SPEC_VERSION,
    UNPUBLISHED,
    FileEntry,
    Identity,
    Manifest,
    TensorsSummary,
    is_unlisted,
)
from edgelora.manifest.paths import check_path, check_paths
from edgelora.manifest.reader import KNOWN_FEATURES, MAX_MANIFEST_BYTES, parse_manifest, read_manifest
from edgelora.manifest.record import (
    DerivedFrom,
    EvaluationDataset,
    EvaluationEntry,
    Fallback,
    Guardrail,
    Hardware,
    MinMemory,
    Quantization,
    Runtime,
    Security,
    Task,
    Training,
    TrainingDataset,
    Use,
)
from edgelora.manifest.tensors import summarize_tensors
from edgelora.manifest.tree import describe_files, tree_digest
from edgelora.manifest.writer import manifest_bytes

__all__ = [
    "DEFAULT_CHANNEL",
    "KNOWN_FEATURES",
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "SIGNATURE_NAME",
    "SPEC_VERSION",
    "UNPUBLISHED",
    "Base",
    "BaseFile",
    "Component",
    "Composition",
    "CompositionInput",
    "DerivativeRef",
    "DerivedFrom",
    "EvaluationDataset",
    "EvaluationEntry",
    "ExternalInput",
    "Fallback",
    "FileEntry",
    "Guardrail",
    "Hardware",
    "Identity",
    "Manifest",
    "MinMemory",
    "PartRef",
    "PluginRef",
    "Quantization",
    "Runtime",
    "Security",
    "Task",
    "TensorsSummary",
    "Training",
    "TrainingDataset",
    "Use",
    "check_path",
    "check_paths",
    "decimal_text",
    "describe_files",
    "is_unlisted",
    "manifest_bytes",
    "parse_manifest",
    "read_manifest",
    "summarize_tensors",
    "tree_digest",
]
