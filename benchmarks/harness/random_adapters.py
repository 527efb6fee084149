"""A llama of random weights on disk, and adapter directories of plain LoRA for it with random factors."""

from __future__ import annotations

import json
from pathlib import Path

VOCABULARY = 2048
"""Small: what embeddings and head take is no adapter's."""
SHAPE = {
    "vocab_size": VOCABULARY,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}


def save_llama(folder: Path, *, hidden: int, layers: int, dtype: str) -> dict[str, tuple[int, int]]:
    """Write a model with a tokenizer; (out, in) of the linears inside its blocks, by name."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, **sizes)).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="x").save_pretrained(folder)
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


def dtype_of(base: str) -> str:
    """In which a base is stored."""
    return str(json.loads((Path(base) / "config.json").read_text())["dtype"])


def random_adapters(
    work: Path, base: Path, linears: dict[str, tuple[int, int]], *, count: int, rank: int, dtype: str
) -> list[str]:
    """Folders of ``count`` different adapters of all linears, under ``work``."""
    return [
        str(random_adapter(work / f"adapter-{seed}", base, linears, rank=rank, dtype=dtype, seed=seed))
        for seed in range(count)
    ]


def random_adapter(
    folder: Path, base: Path, linears: dict[str, tuple[int, int]], *, rank: int, dtype: str, seed: int
) -> Path:
    """Write a sound adapter, signed by nobody, that PEFT and edgelora read alike; alpha is twice the rank."""
    import torch
    from safetensors.torch import save_file

    from edgelora.manifest import (
        MANIFEST_NAME,
        Component,
        DerivativeRef,
        Identity,
        Manifest,
        PartRef,
        describe_files,
        manifest_bytes,
        tree_digest,
    )
    from edgelora.manifest.base_identity import identify_base
    from edgelora.manifest.tensors import summarize_tensors

    folder.mkdir(parents=True)
    numbers = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (out_features, in_features) in linears.items():
        for factor, shape in (("A", (rank, in_features)), ("B", (out_features, rank))):
            drawn = torch.randn(shape, generator=numbers) / in_features**0.5
            tensors[f"base_model.model.{name}.lora_{factor}.weight"] = drawn.to(getattr(torch, dtype))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in linears}),
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    files = tuple(describe_files(folder))
    part = {"plugin": "lora", "distribution": "edgelora", "version": "0.1.0"}
    quantizer = PartRef(name="none", plugin="baseline", distribution="edgelora", version="0.1.0")
    manifest = Manifest(
        identity=Identity(
            namespace="bench",
            name=f"adapter-{seed}",
            version="1.0.0",
            created_at="2026-01-01T00:00:00Z",
            release_sequence=1,
        ),
        base=identify_base(base),
        components=(
            Component(
                id="main",
                derivative=DerivativeRef(name="lora"),
                parts={"adapter": PartRef(name="lora", **part), "quantizer": quantizer},
                config={"r": rank, "alpha": 2 * rank, "targetModules": sorted(linears)},
                files=("adapter_config.json", "adapter_model.safetensors"),
                dtype="BF16" if dtype == "bfloat16" else "F32",
            ),
        ),
        files=files,
        tree_digest=tree_digest(files),
        tensors=summarize_tensors(folder, files),
        license="CC0-1.0",
    )
    (folder / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    return folder
