"""A streamed base computes what a resident one computes, and stays as it is."""

import copy
import hashlib
import re
from pathlib import Path

import pytest
import torch
from first_party import ADAPTERS, matrix, small
from micro_batch import losses_and_gradients
from prepared_bases import prepare
from safetensors.torch import load_file, save_file
from tiny_models import save_tokenizer
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from edgelora.engine.base import load_base
from edgelora.engine.gradients import RowLosses
from edgelora.engine.inject import inject
from edgelora.errors import CombinationError, ModelError
from edgelora.layers import FrozenLinear
from edgelora.layers.mapped import MappedEmbedding, MappedLinear
from edgelora.protocols import Batch

STREAMED = [name for name, part in ADAPTERS.items() if "CrossSite" not in part.abilities]


def batch():
    ids = torch.randint(1, 250, (2, 12), generator=torch.Generator().manual_seed(0))
    mask, labels = torch.ones_like(ids), ids.clone()
    labels[:, :4] = -100
    mask[1, 8:], labels[1, 8:] = 0, -100
    return Batch(ids, mask, labels, torch.zeros(2, dtype=torch.int64))


def step(the_plan):
    """Losses and gradients of one micro-batch, with adapters that no longer start at the base."""
    model = load_base(the_plan)
    if the_plan.recipe.train.streamed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return losses_and_gradients(model, the_plan, batch())


@pytest.mark.parametrize("adapter", STREAMED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_and_gradients_are_those_of_a_resident_base(plan, three_blocks, adapter, dtype):
    changes = {"adapter": small(adapter), "base": str(three_blocks)}
    before = digest(three_blocks)
    expected, gradients = step(plan({"dtype": dtype}, **changes))
    losses, found = step(plan({"dtype": dtype, "streamed": True}, **changes))
    assert torch.equal(losses, expected)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.equal(found[name], gradient), name
    assert digest(three_blocks) == before


@pytest.mark.parametrize(("adapter", "quantizer"), matrix(STREAMED))
def test_a_prepared_base_is_streamed_with_every_quantizer_and_adapter(
    plan, three_blocks, prepared, adapter, quantizer
):
    folder = prepared(quantizer)
    changes = {"adapter": small(adapter), "quantizer": quantizer}
    before = digest(folder)
    expected, gradients = step(plan(base=str(three_blocks), **changes))
    for streamed in (False, True):
        losses, found = step(plan({"streamed": streamed}, base=str(folder), **changes))
        assert torch.equal(losses, expected)
        for name, gradient in gradients.items():
            assert torch.equal(found[name], gradient), name
    assert digest(folder) == before


def digest(folder):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_those_of_a_resident_base(plan, make_base, tmp_path, tied, stored, dtype):
    folder = make_base(tmp_path / "base", dtype=stored, tie_word_embeddings=tied, attention_bias=True)
    expected = load_base(plan({"dtype": dtype}, base=str(folder)))(batch().input_ids).logits
    streamed = load_base(plan({"dtype": dtype, "streamed": True}, base=str(folder)))
    logits = streamed(batch().input_ids).logits
    assert logits.dtype == expected.dtype
    assert torch.allclose(logits, expected, rtol=1e-6, atol=1e-6)
    if stored == dtype:
        assert torch.equal(logits, expected)


@pytest.mark.parametrize("quantizer", ["none", "nf4"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_head_tied_to_an_embedding_of_its_own_kind_is_computed_in_the_dtype_asked_for(
    plan, tmp_path, quantizer, streamed
):
    folder = save_gemma3(tmp_path / "base")
    expected = load_base(plan(base=str(folder), quantizer=quantizer))(batch().input_ids).logits
    prepared = prepare(folder, tmp_path / "prepared", quantizer)
    made = load_base(plan({"streamed": streamed}, base=str(prepared), quantizer=quantizer))
    logits = made(batch().input_ids).logits
    assert logits.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


def save_gemma3(folder):
    """In bfloat16; it scales its embedding, whose weight is the head's too."""
    folder.mkdir()
    save_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    model = Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=320, **sizes, **heads))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_weights_are_views_of_the_files_and_vectors_are_not(plan, three_blocks):
    model = load_base(plan({"streamed": True}, base=str(three_blocks)))
    shared = {name for name, parameter in model.named_parameters() if is_mapped(parameter)}
    assert {name for name, parameter in model.named_parameters() if parameter.dim() > 1} == shared
    assert isinstance(model.lm_head, MappedLinear)
    assert isinstance(model.get_input_embeddings(), MappedEmbedding)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in model.parameters())


def is_mapped(tensor):
    with open("/proc/self/maps") as maps:
        for line in maps:
            first, last = (int(part, 16) for part in line.split()[0].split("-"))
            if first <= tensor.data_ptr() < last:
                return line.rstrip().endswith(".safetensors")
    return False


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="resident pages are told by Linux")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize(("streamed", "most"), [(True, 2), (False, 6)])
def test_no_more_than_two_blocks_are_ever_in_memory(plan, make_base, tmp_path, adapter, streamed, most):
    source = make_base(tmp_path / "base", num_hidden_layers=6, hidden_size=256, intermediate_size=512)
    folder = prepare(source, tmp_path / "prepared", "nf4")
    the_plan = plan({"streamed": streamed}, base=str(folder), adapter={"name": adapter, "rank": 4})
    counts = []

    def count(*_):
        counts.append(blocks_in_memory(folder))

    model = load_base(the_plan)
    for block in model.model.layers:
        block.mlp.down_proj.register_forward_hook(count)
    layers = inject(model, the_plan)
    count()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for _ in range(2):
        RowLosses(model.train(), layers, 512)(batch())[0].sum().backward()
    count()
    model.eval().generate(batch().input_ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert max(counts) == most


def blocks_in_memory(folder):
    """How many of the blocks' shards are there for the most part: looking at a page brings its neighbours."""
    maps = Path("/proc/self/smaps").read_text()
    sizes = re.findall(rf"{folder}/(\S+)\nSize: +(\d+) kB\n(?:[A-Z].*\n)*?Rss: +(\d+)", maps)
    # Between the embedding and the last norm.
    of_blocks = [path.name for path in sorted(folder.glob("*.safetensors"))[1:-1]]
    return sum(int(resident) > int(size) / 2 for name, size, resident in sizes if name in of_blocks)


def test_generation_token_by_token_is_the_same_streamed(plan, three_blocks):
    prompt = batch().input_ids[:1]
    answers = [
        load_base(plan({"streamed": streamed}, base=str(three_blocks))).generate(
            prompt, max_new_tokens=8, do_sample=False, pad_token_id=0
        )
        for streamed in (False, True)
    ]
    assert torch.equal(*answers)


def test_a_copy_of_a_streamed_model_computes_the_same(plan, three_blocks):
    model = load_base(plan({"streamed": True}, base=str(three_blocks)))
    other = copy.deepcopy(model)
    assert torch.equal(other(batch().input_ids).logits, model(batch().input_ids).logits)


def test_a_base_that_is_to_be_quantized_must_be_prepared_first(plan):
    with pytest.raises(CombinationError, match="hold none that nf4 has quantized") as caught:
        load_base(plan({"streamed": True}, derivative="qlora"))
    assert "edgelora bases prepare" in caught.value.fix
    assert caught.value.fix.endswith("--quantizer nf4")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("model.norm.weight"), "no tensor 'model.norm.weight'"),
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "no tensor model.layers.1.mlp.up_proj.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "the tensor 'extra', which the model has no place for"),
        (
            lambda t: t.update({"model.layers.0.mlp.up_proj.bias": torch.zeros(128)}),
            "a bias of model.layers.0.mlp.up_proj",
        ),
        (lambda t: t.update({"model.norm.weight": torch.zeros(65)}), r"\(65,\), and the model needs \(64,\)"),
        (
            lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(64, 128)}),
            r"up_proj.weight as \(64, 128\), and the model needs \(128, 64\)",
        ),
    ],
)
def test_files_that_do_not_hold_the_model_are_refused_by_name(plan, make_base, tmp_path, change, said):
    folder = make_base(tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=said):
        load_base(plan({"streamed": True}, base=str(folder)))


def test_a_file_of_a_bare_backbone_is_understood(plan, make_base, tmp_path):
    folder = make_base(tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    expected = load_base(plan(base=str(folder)))(batch().input_ids).logits
    save_file({name.removeprefix("model."): t for name, t in tensors.items()}, folder / "model.safetensors")
    model = load_base(plan({"streamed": True}, base=str(folder)))
    assert torch.equal(model(batch().input_ids).logits, expected)


def test_modules_left_unquantized_stay_what_they_are(plan, three_blocks):
    model = load_base(plan({"streamed": True}, base=str(three_blocks), skip_modules=["down_proj"]))
    assert not isinstance(model.model.layers[0].mlp.down_proj, FrozenLinear)
    assert isinstance(model.model.layers[0].mlp.up_proj, FrozenLinear)
