"""Shapes of published models, as their configuration files give them; no weights come with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LLAMA_3 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of one model."""

    name: str
    """As it is published; a cut one says how many blocks are left."""
    config: dict[str, Any]
    """Of its ``config.json``."""

    @property
    def slug(self) -> str:
        """As a folder's name."""
        return self.name.lower().replace(" ", "-").replace(",", "")


LLAMA_8B = Shape(
    "Llama-3.1-8B",
    {
        **LLAMA_3,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
)
LLAMA_70B = Shape(
    "Llama-3-70B",
    {
        **LLAMA_3,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
)
LLAMA_1B_CUT = Shape(
    "Llama-3.2-1B, 4 of 16 blocks",
    {
        **LLAMA_3,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 4,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
)
QWEN_05B = Shape(
    "Qwen2.5-0.5B",
    {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "dtype": "bfloat16",
    },
)
QWEN_4B = Shape(
    "Qwen3-4B",
    {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 40960,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "dtype": "bfloat16",
    },
)
SHAPES = {shape.slug: shape for shape in (LLAMA_8B, LLAMA_70B, LLAMA_1B_CUT, QWEN_05B, QWEN_4B)}
