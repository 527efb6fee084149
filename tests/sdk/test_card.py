"""The card of an adapter, read back with the Hub's own client."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapter_folders import write_adapter
from huggingface_hub import HfApi, ModelCard, ModelInfo, hf_hub_download
from loopback_hub import LoopbackHub

from edgelora.card import model_card
from edgelora.manifest import Base, Component, DerivativeRef, EvaluationEntry, PartRef, TrainingDataset
from edgelora.manifest.record import EvaluationDataset
from edgelora.transfer import push

DIGEST = "sha256:" + "0" * 64
MEASURED = (
    EvaluationEntry(metric="main.perplexity", value="9.5", n=40, phase="base"),
    EvaluationEntry(metric="main.perplexity", value="2.5", n=40, phase="adapter", low="2.25", high="2.75"),
    EvaluationEntry(
        metric="accuracy",
        value="0.9",
        n=100,
        phase="adapter",
        dataset=EvaluationDataset(name="acme/pumps", split="test"),
    ),
)


def card(**changes: object) -> ModelCard:
    part = PartRef(name="lora", plugin="lora", distribution="edgelora", version="0.1.0")
    options = {
        "title": "qlora adapter for acme/tiny",
        "base": Base(
            repo="acme/tiny", architecture="LlamaForCausalLM", tensors_digest=DIGEST, config_digest=DIGEST
        ),
        "component": Component(
            id="main",
            derivative=DerivativeRef(name="qlora", paper="arXiv:2305.14314"),
            parts={"adapter": part},
            config={"r": 4, "alpha": 8, "targetModules": ["q_proj"]},
            files=("adapter_model.safetensors",),
            dtype="F32",
        ),
        "evaluation": MEASURED,
        "license": "Apache-2.0",
        "languages": ("en", "en-GB", "id"),
        "peft": True,
        "datasets": (TrainingDataset(name="acme/pump-logs"), TrainingDataset(name="train.jsonl")),
    }
    return ModelCard(model_card(**options | changes))


def test_the_hub_is_told_base_library_licence_languages_task_and_data() -> None:
    data = card().data
    assert (data.base_model, data.base_model_relation) == ("acme/tiny", "adapter")
    assert (data.library_name, data.pipeline_tag, data.license) == ("peft", "text-generation", "apache-2.0")
    assert data.language == ["en", "id"]
    assert data.datasets == ["acme/pump-logs"]
    assert data.tags == ["edgelora", "qlora", "lora"]


def test_the_measurements_of_the_adapter_are_in_the_model_index() -> None:
    data = card().data
    assert data.model_name == "qlora adapter for acme/tiny"
    results = {result.metric_type: result for result in data.eval_results}
    assert set(results) == {"main.perplexity", "accuracy"}
    assert results["main.perplexity"].metric_value == 2.5
    assert results["main.perplexity"].metric_args == {"n": 40, "low": 2.25, "high": 2.75}
    assert (results["accuracy"].dataset_type, results["accuracy"].dataset_split) == ("acme/pumps", "test")
    assert results["main.perplexity"].dataset_name == "rows kept out of training"


@pytest.mark.parametrize(
    ("license", "shown"),
    [
        ("MIT", ("mit", None)),
        ("GPL-3.0-or-later", ("gpl-3.0", None)),
        ("LGPL-2.1-only", ("lgpl-2.1", None)),
        ("Apache-2.0 OR MIT", ("other", "Apache-2.0 OR MIT")),
        ("LicenseRef-unspecified", ("other", "unspecified")),
    ],
)
def test_a_licence_is_in_the_hubs_words(license: str, shown: tuple[str, str | None]) -> None:
    data = card(license=license).data
    assert (data.license, data.license_name) == shown


def test_what_the_hub_would_refuse_is_left_out() -> None:
    base = Base(
        repo="/srv/models/tiny", architecture="LlamaForCausalLM", tensors_digest=DIGEST, config_digest=DIGEST
    )
    front = card(base=base, languages=(), evaluation=(), datasets=(), peft=False).data.to_dict()
    assert set(front) == {"library_name", "license", "pipeline_tag", "tags"}
    assert front["library_name"] == "edgelora"
    assert "/srv/models/tiny" in card(base=base).text


def test_the_hubs_client_reads_it_back_from_a_hub(hub: LoopbackHub, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", extra={"README.md": str(card()).encode()})
    push(adapter, "alice/decimals", to=hub.url)
    options = {"endpoint": hub.url, "token": False, "cache_dir": tmp_path / "hf"}
    read = ModelCard.load(hf_hub_download("alice/decimals", "README.md", **options))
    assert read.data.to_dict() == card().data.to_dict()
    [listed] = list_models(hub.url)
    assert listed.id == "alice/decimals" and "edgelora" in listed.tags


def list_models(endpoint: str) -> list[ModelInfo]:
    return list(HfApi(endpoint, token=False).list_models(filter="edgelora"))


def test_the_text_shows_the_measurements_with_their_intervals() -> None:
    assert "| main.perplexity | adapter | 2.5 | 2.25 – 2.75 | 40 |" in card().text
