"""What PEFT's methods are, and what is known of each before PEFT is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Method:
    """One method of PEFT.

    Attributes:
        summary: One line.
        paper: Where it was published, if PEFT names an arXiv number.
        unusable: Why it cannot be used here.
        starts_elsewhere: Why a model does not compute what its base does when training starts.
        reads_weights: PEFT reads the weights of linears, so that a quantized base will not do.
        in_cache: What it learns is given to the model as a cache of keys and values.
        usual: Options that PEFT leaves open and cannot do without, at usual values: those of the derivative.
            A recipe that names the adapter itself must write them.
        small: Options that fit the tiny model of the conformance kit.
        learning_rate: With which the kit trains it.
    """

    summary: str
    paper: str = ""
    unusable: str = ""
    starts_elsewhere: str = ""
    reads_weights: bool = False
    in_cache: bool = False
    usual: Mapping[str, Any] = field(default_factory=dict)
    small: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-2


_VIRTUAL = "it reads learned tokens before each row from the start"
_ASKS_FOR_TASKS = "each forward must be told the tasks of its rows in PEFT's own way: use mtlora"
_RANDOM = "PEFT starts it at random numbers"
_SMALL_RANK = {"r": 4}
_SMALL_PROMPT = {"num_virtual_tokens": 4}
_USUAL_PROMPT = {"num_virtual_tokens": 20}

METHODS: Mapping[str, Method] = {
    "adalora": Method(
        "AdaLoRA, ranks pruned while training",
        "arXiv:2303.10512",
        unusable="PEFT leaves the calls that prune ranks to the training loop: use adalora",
    ),
    "adamss": Method(
        "low-rank updates of clustered subspaces of each weight",
        unusable="PEFT needs scikit-learn for it, which edgelora does not install: use peft:psoft",
    ),
    "adaption-prompt": Method(
        "LLaMA-Adapter: gated learned tokens in the attention of the last blocks",
        "arXiv:2303.16199",
        unusable="PEFT computes it over a base in float32 alone: use peft:prefix-tuning",
    ),
    "beft": Method("biases added to the value projections", "arXiv:2509.15974"),
    "boft": Method("orthogonal change in butterfly factors", "arXiv:2311.06243"),
    "c3a": Method(
        "block-circular convolution", "arXiv:2407.19342", small={"block_size": 16}, starts_elsewhere=_RANDOM
    ),
    "cartridge": Method(
        "a learned cache of keys and values",
        starts_elsewhere=_VIRTUAL,
        in_cache=True,
        usual=_USUAL_PROMPT,
        small=_SMALL_PROMPT,
    ),
    "cpt": Method(
        "context-aware prompt tuning",
        "arXiv:2410.17222",
        unusable="its loss also counts the answers inside its own context: use peft:prompt-tuning",
    ),
    "deft": Method(
        "a subspace of each weight replaced by learned content", small=_SMALL_RANK, reads_weights=True
    ),
    "delora": Method(
        "low-rank change with its strength learned apart",
        "arXiv:2503.18225",
        small=_SMALL_RANK,
        reads_weights=True,
    ),
    "fourierft": Method(
        "some coefficients of the change's Fourier transform",
        "arXiv:2405.03003",
        small={"n_frequency": 16},
        starts_elsewhere=_RANDOM,
    ),
    "frod": Method("shared rotations, with a sparse change within", reads_weights=True),
    "glora": Method(
        "generalized LoRA: scales and shifts of weights and biases",
        unusable="PEFT takes torch's own linears for it, and a frozen base has others: use dora",
    ),
    "gralora": Method("LoRA in blocks of the weight", "arXiv:2505.20355", small={"r": 8}),
    "hira": Method(
        "a low-rank product times the weight, element by element", small=_SMALL_RANK, reads_weights=True
    ),
    "hra": Method(
        "orthogonal change by Householder reflections",
        "arXiv:2405.17484",
        small=_SMALL_RANK,
        reads_weights=True,
    ),
    "ia3": Method("activations scaled by learned vectors", "arXiv:2205.05638"),
    "lily": Method(
        "low-rank adapters that share their factors across blocks",
        "arXiv:2407.09946",
        unusable="its router takes the mean over all tokens and rows of a batch: use peft:vera",
    ),
    "ln-tuning": Method("the normalization layers alone", "arXiv:2312.11420"),
    "loha": Method(
        "a Hadamard product of two low-rank products",
        "arXiv:2108.06098",
        small=_SMALL_RANK,
        reads_weights=True,
    ),
    "lokr": Method(
        "a Kronecker product of small factors", "arXiv:2309.14859", small=_SMALL_RANK, reads_weights=True
    ),
    "lora": Method("LoRA as PEFT makes it, with all of its variants", "arXiv:2106.09685", small=_SMALL_RANK),
    "miss": Method("one matrix, shared by shards of the weight", "arXiv:2409.15371", small=_SMALL_RANK),
    "multitask-prompt-tuning": Method(
        "prompt tuning with a shared and a task's factor", "arXiv:2303.02861", unusable=_ASKS_FOR_TASKS
    ),
    "oft": Method("orthogonal change in blocks", "arXiv:2306.07280", small={"oft_block_size": 8}),
    "osf": Method(
        "the directions of small singular values learn, those of large ones are kept",
        "arXiv:2504.07097",
        reads_weights=True,
    ),
    "p-tuning": Method(
        "learned tokens before each row, made by a small network",
        "arXiv:2103.10385",
        starts_elsewhere=_VIRTUAL,
        usual=_USUAL_PROMPT,
        small={**_SMALL_PROMPT, "encoder_hidden_size": 16},
    ),
    "peanut": Method(
        "a small network that reads the weight makes its change",
        "arXiv:2410.01870",
        small=_SMALL_RANK,
        reads_weights=True,
    ),
    "poly": Method("a mix of skills for each task", "arXiv:2202.13914", unusable=_ASKS_FOR_TASKS),
    "prefix-tuning": Method(
        "learned keys and values before each row",
        "arXiv:2101.00190",
        starts_elsewhere=_VIRTUAL,
        in_cache=True,
        usual=_USUAL_PROMPT,
        small=_SMALL_PROMPT,
    ),
    "prompt-tuning": Method(
        "learned tokens before each row",
        "arXiv:2104.08691",
        starts_elsewhere=_VIRTUAL,
        usual=_USUAL_PROMPT,
        small=_SMALL_PROMPT,
    ),
    "psoft": Method("orthogonal change of the principal subspace", small=_SMALL_RANK, reads_weights=True),
    "pvera": Method("VeRA with learned variances", "arXiv:2512.07703", small={"r": 8}),
    "randlora": Method("sums of scaled random low-rank products", "arXiv:2502.00987", small={"r": 8}),
    "road": Method("rotations of pairs of outputs", "arXiv:2409.00119", small={"group_size": 16}),
    "shadow": Method(
        "a small network beside the blocks, which corrects them",
        unusable="part of its loss is taken inside PEFT, which no loss here adds: use peft:vera",
    ),
    "shira": Method(
        "some elements of each weight", "arXiv:2406.13175", small=_SMALL_RANK, reads_weights=True
    ),
    "supertuning": Method("the largest elements of each weight", "arXiv:2607.09287", reads_weights=True),
    "tinylora": Method(
        "a vector of a few numbers, projected at random",
        "arXiv:2602.04118",
        small={"u": 8},
        reads_weights=True,
    ),
    "trainable-tokens": Method("embeddings of some tokens", small={"token_indices": [*range(256)]}),
    "unilora": Method(
        "all factors from one vector, by a random projection",
        "arXiv:2506.00799",
        small=_SMALL_RANK,
        starts_elsewhere=_RANDOM,
    ),
    "vblora": Method(
        "factors mixed from a shared bank of vectors",
        "arXiv:2405.15179",
        small={"num_vectors": 16, "vector_length": 16},
        starts_elsewhere=_RANDOM,
    ),
    "vera": Method("learned scales of shared random factors", "arXiv:2310.11454", small={"r": 8}),
    "waveft": Method("some coefficients of the change's wavelet transform", small={"n_frequency": 16}),
    "xlora": Method(
        "a mix of trained LoRA adapters, by token",
        "arXiv:2402.07148",
        unusable="it mixes adapters that must be there before: train each by itself",
    ),
}
