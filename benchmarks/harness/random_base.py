"""Prepared bases of published shapes with random weights: every block distinct, made one at a time on disk.

The codes of a linear are uniform random bytes, seeded by its name, and the scales of its blocks are drawn so
that its weights have a standard deviation of about 0.02. What a step costs in memory and time depends on
shapes and dtypes, not on what the numbers are; the losses mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from edgelora.engine.preparing.layout import Layout, layout_of
from edgelora.engine.preparing.shard import ShardWriter
from edgelora.manifest.prepared import RECORD_NAME, PreparedBase, record_bytes
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerFast

from edgelora.layers.nf4 import STATISTICS_BLOCK, dynamic_map
from edgelora.manifest.base import Base, BaseFile
from edgelora.manifest.components import PartRef
from edgelora.manifest.tensor_digest import HashedFile, digest_of_tensors
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
    if (folder / RECORD_NAME).is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.config, indent=2) + "\n")
    layout = layout_of(AutoConfig.from_pretrained(folder))
    _check_space(folder, layout)
    plan = make_plan(make_recipe({"derivative": "qlora", "base": str(folder)}), Registry.discover())
    quantizer = plan.build("quantizer")
    stock = {"quantization_config": {"quant_method": "bitsandbytes", **quantizer.quantization_config()}}
    (folder / "config.json").write_text(json.dumps(shape.config | stock, indent=2) + "\n")
    _save_tokenizer(folder)

    hashed: dict[str, HashedFile] = {}
    weight_map: dict[str, str] = {}
    for number, names in enumerate(layout.shards, start=1):
        path = folder / f"model-{number:05d}-of-{len(layout.shards):05d}.safetensors"
        print(f"{shape.name}: {path.name}", file=sys.stderr)
        with ShardWriter(path) as writer:
            for name in names:
                for stored, tensor in _tensors(name, layout, quantizer).items():
                    writer.add(stored, tensor)
                    weight_map[stored] = path.name
            hashed[path.name] = writer.finish()
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
    record = PreparedBase(
        source=_source(shape),
        quantizer=_reference(plan),
        dtype="BF16",
        form="stock",
        files=tuple(_describe(path, hashed) for path in sorted(folder.iterdir())),
        tensors_digest=digest_of_tensors(hashed),
    )
    # Last: a folder with a record is whole.
    (folder / RECORD_NAME).write_bytes(record_bytes(record))
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


def _tensors(name: str, layout: Layout, quantizer: Any) -> dict[str, Tensor]:
    """What is stored of one tensor of the unquantized model."""
    shape = layout.shapes[name]
    linear, _, leaf = name.rpartition(".")
    if linear in layout.quantized and leaf == "weight":
        codes = random_codes(linear, *shape)
        layer = quantizer.restore(codes, linear, shape, torch.bfloat16)
        return {f"{linear}.{member}": value for member, value in quantizer.stock_tensors(layer).items()}
    if leaf == "bias":
        return {name: torch.zeros(shape, dtype=torch.bfloat16)}
    if len(shape) == 1:
        return {name: torch.ones(shape, dtype=torch.bfloat16)}
    weight = torch.empty(shape, dtype=torch.bfloat16)
    generator = _seeded(name)
    for rows in weight.split(4096):
        rows.normal_(0.0, SPREAD, generator=generator)
    return {name: weight}


def _seeded(name: str) -> torch.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _check_space(folder: Path, layout: Layout) -> None:
    # A block's tensors lie on the disk twice while its shard is put together.
    needed, free = round(size_bytes(layout) * 1.05) + 2**31, shutil.disk_usage(folder).free
    if free < needed:
        shutil.rmtree(folder)
        raise NoSpace(f"{needed / 1e9:.0f} GB are needed under {folder.parent}, {free / 1e9:.0f} GB are free")


def _save_tokenizer(folder: Path) -> None:
    """One of single bytes: rows are made of random ids, and only the ids of padding and end are asked."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )


def _source(shape: Shape) -> Base:
    digest = f"sha256:{hashlib.sha256(shape.name.encode()).hexdigest()}"
    return Base(
        repo=shape.name,
        architecture=shape.config["architectures"][0],
        tensors_digest=digest,
        config_digest=digest,
    )


def _reference(plan: Any) -> PartRef:
    part = plan.parts["quantizer"]
    return PartRef(
        name=part.name,
        plugin=part.plugin,
        distribution=part.distribution,
        version=part.version,
        options=part.options.model_dump(mode="json"),
    )


def _describe(path: Path, hashed: dict[str, HashedFile]) -> BaseFile:
    known = hashed.get(path.name)
    sha256 = known.sha256 if known else hashlib.sha256(path.read_bytes()).hexdigest()
    return BaseFile(path=path.name, size=path.stat().st_size, sha256=sha256)
