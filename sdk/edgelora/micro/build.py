"""Builds the micro base: ``python -m edgelora.micro.build --out DIR --seed N``."""

from __future__ import annotations

import argparse
import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.micro.card import CardFacts, render_card
from edgelora.micro.location import path
from edgelora.micro.tokenizer import BOS_ID, EOS_ID, PAD_ID, write_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

SEED = 1
WEIGHTS = "model.safetensors"


def build(out: Path, *, seed: int) -> None:
    """Train the base and write its folder: weights, configuration, tokenizer and card."""
    from edgelora.micro.scores import score_base
    from edgelora.micro.training import train_base

    out.mkdir(parents=True, exist_ok=True)
    write_base(train_base(seed=seed), out)
    facts = CardFacts(seed=seed, weights_digest=file_digest(out / WEIGHTS), scores=score_base(out))
    (out / "README.md").write_text(render_card(facts), encoding="utf-8")
    print(f"{out}: {facts.weights_digest}")


def write_base(model: LlamaForCausalLM, out: Path) -> None:
    """Write everything but the card."""
    write_weights(model, out / WEIGHTS)
    _write_json(out / "config.json", _configuration(model))
    _write_json(
        out / "generation_config.json",
        {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID, "do_sample": False},
    )
    write_tokenizer(out)


def write_weights(model: LlamaForCausalLM, file: Path) -> None:
    """Write the parameters in float16; the output head is the embedding, written once."""
    import torch
    from safetensors.torch import save

    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in model.named_parameters()}
    file.write_bytes(save(tensors, metadata={"format": "pt"}))


def file_digest(file: Path) -> str:
    """``sha256:`` of a file's bytes."""
    return f"sha256:{sha256(file.read_bytes()).hexdigest()}"


def _configuration(model: LlamaForCausalLM) -> dict[str, object]:
    # Stored in float16 to be small; computed in float32, which a CPU does better.
    settings = {**model.config.to_diff_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "float32"}
    del settings["transformers_version"]
    return settings


def _write_json(file: Path, settings: dict[str, object]) -> None:
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m edgelora.micro.build", description="Build the micro base."
    )
    parser.add_argument("--out", type=Path, default=path(), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _parse_arguments()
    build(arguments.out, seed=arguments.seed)
