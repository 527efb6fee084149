"""Prepared bases of published shapes with random weights: every block distinct, made one at a time on disk.

The codes of a linear are uniform random bytes, seeded by its name, and the scales of its blocks are drawn so
that its weights have a standard deviation of about 0.02. What a step costs in memory and time depends on
shapes and dtypes, not on what the numbers are; the losses mean nothing.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerFast

from edgelora.engine.preparing import Layout, Preparation, PreparedShard, PreparedWriter, layout_of
from edgelora.layers.nf4 import STATISTICS_BLOCK, dynamic_map
from edgelora.manifest import Base
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from harness.shapes import Shape

BLOCK = 64
SPREAD = 0.02
"""Standard deviation of the weights."""
NF4_SPREAD = 0.547
"""Root mean square of the 16 levels of NF4, each as likely."""


class NoSpace(RuntimeError):
    """The disk cannot take the base; the text says how much it takes."""


def random_base(shape: Shape, work: Path) -> Path:
    """The folder of a prepared base in NF4 with double quantization; one that is whole is used again.

    Args:
        shape: Of the model.
        work: Folder under which it is put.

    Raises:
        NoSpace: The disk of ``work`` has too little left.
    """
    folder = work / shape.slug
    if folder.is_dir():
        return folder
    work.mkdir(parents=True, exist_ok=True)
    layout = layout_of(AutoConfig.for_model(**shape.config))
    _check_space(work, layout)
    plan = make_plan(make_recipe({"derivative": "qlora", "base": str(folder)}), Registry.discover())
    preparation = Preparation(_source(shape), plan.parts["quantizer"], torch.bfloat16)
    with PreparedWriter(folder, preparation, layout) as writer:
        for index in writer.missing_shards():
            print(f"{shape.name}: shard {index + 1} of {len(layout.shards)}", file=sys.stderr)
            with writer.shard(index) as shard:
                for name in layout.shards[index]:
                    _store(name, layout, writer.quantizer, shard)
        writer.publish(shape.config, _tokenizer_files())
    return folder


def size_bytes(layout: Layout) -> int:
    """Of the tensors of a prepared base: half a byte and 1/64 of one per quantized weight, else two."""
    total = 0.0
    for name, shape in layout.shapes.items():
        count = torch.Size(shape).numel()
        is_quantized = name.removesuffix(".weight") in layout.quantized
        total += count * (0.5 + (1 + 4 / STATISTICS_BLOCK) / BLOCK) if is_quantized else count * 2
    return round(total)


def random_codes(name: str, out_features: int, in_features: int) -> dict[str, Tensor]:
    """What an NF4 layer keeps of a weight (out, in), drawn at random; see `edgelora.layers.nf4`."""
    generator = _seeded(name)
    count = out_features * in_features
    blocks = -(-count // BLOCK)
    middle = SPREAD / NF4_SPREAD
    return {
        "codes": torch.randint(0, 256, (count // 2, 1), dtype=torch.uint8, generator=generator),
        "absmax": torch.randint(0, 256, (blocks,), dtype=torch.uint8, generator=generator),
        # The map of the second quantization spans -1 to 1: scales lie within a tenth of the middle.
        "absmax_scale": torch.full((-(-blocks // STATISTICS_BLOCK),), middle / 10),
        "absmax_code": dynamic_map(torch.device("cpu")),
        "absmax_offset": torch.tensor(middle),
    }


def _store(name: str, layout: Layout, quantizer: Any, shard: PreparedShard) -> None:
    """Make one tensor of the unquantized model, and store it as it is kept."""
    shape = layout.shapes[name]
    linear, _, leaf = name.rpartition(".")
    if linear not in layout.quantized:
        shard.tensor(name, _random(name, shape))
    elif leaf == "weight":
        tensors = random_codes(linear, *shape)
        if f"{linear}.bias" in layout.shapes:
            tensors["bias"] = torch.zeros(shape[0], dtype=torch.bfloat16)
        shard.layer(linear, quantizer.restore(tensors, linear, shape, torch.bfloat16))


def _random(name: str, shape: tuple[int, ...]) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    weight = torch.empty(shape, dtype=torch.bfloat16)
    generator = _seeded(name)
    for rows in weight.split(4096):
        rows.normal_(0.0, SPREAD, generator=generator)
    return weight


def _seeded(name: str) -> torch.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _check_space(work: Path, layout: Layout) -> None:
    # A shard's tensors lie on the disk twice while it is put together; some is left for others.
    needed, free = round(size_bytes(layout) * 1.02) + 4 * 2**30, shutil.disk_usage(work).free
    if free < needed:
        raise NoSpace(f"{needed / 1e9:.0f} GB are needed under {work}, and {free / 1e9:.0f} GB are free")


def _tokenizer_files() -> dict[str, bytes]:
    """Of one of single bytes: rows are made of random ids, and only the ids of padding and end are asked."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    with tempfile.TemporaryDirectory() as folder:
        wrapped.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _source(shape: Shape) -> Base:
    digest = f"sha256:{hashlib.sha256(shape.name.encode()).hexdigest()}"
    return Base(
        repo=shape.name,
        architecture=shape.config["architectures"][0],
        tensors_digest=digest,
        config_digest=digest,
    )
