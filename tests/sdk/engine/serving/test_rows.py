"""Each row of a mixed batch is what its own adapter alone makes of it."""

import pytest
import torch
from prepared_bases import prepare

from edgelora.engine.apply import load_adapted
from edgelora.engine.base import load_base
from edgelora.engine.serving import load_adapters, open_base
from edgelora.errors import AdapterNotFound, PlanError
from edgelora.layers import segmented
from edgelora.layers.generate import greedy
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe

ADDED = {"lora": None, "sites": None, "olora": None, "adalora": None, "first": "first", "second": "second"}
ROWS = ["first", "lora", None, "sites", "lora", "second", "olora", "adalora", None]


@pytest.fixture(scope="module")
def adapters(served, tiny_base, registry):
    """Five adapters of four methods, one of them for two tasks, over one base."""
    opened = open_base(make_plan(make_recipe({"base": str(tiny_base)}), registry), registry)
    for name, task in ADDED.items():
        opened.add(name, served("tasks" if task else name), task=task)
    return opened


@pytest.fixture(scope="module")
def alone(served, tiny_base, registry):
    """The model with one adapter only, or none, by name."""
    models = {}

    def load(name):
        if name not in models:
            if name is None:
                plan = make_plan(make_recipe({"base": str(tiny_base)}), registry)
                models[name] = load_base(plan)
            else:
                adapted = load_adapted(
                    served("tasks" if ADDED[name] else name), registry, base=str(tiny_base)
                )
                adapted.route(ADDED[name])
                models[name] = adapted.model
        return models[name]

    return load


@pytest.fixture(scope="module")
def batch():
    """Rows of unequal length, padded at the left."""
    ids = torch.randint(3, 300, (len(ROWS), 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    for row in range(len(ROWS)):
        mask[row, : row % 5] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def logits(model, batch, **more):
    return model(**batch, **more).logits


def test_each_row_is_that_of_its_adapter_alone(adapters, alone, batch):
    with adapters.rows(ROWS):
        mixed = logits(adapters.model, batch)
    bare = logits(alone(None), batch)
    real = batch["attention_mask"].bool()
    for row, name in enumerate(ROWS):
        expected = logits(alone(name), batch)[row][real[row]]
        torch.testing.assert_close(mixed[row][real[row]], expected, rtol=0, atol=1e-5)
        assert name is None or float((expected - bare[row][real[row]]).abs().max()) > 1e-2


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("large", [0, segmented.LARGE_ROW_BYTES], ids=["each run", "together"])
@pytest.mark.parametrize(
    "rows",
    [
        ["lora", "lora", "olora", "olora", "first", "first"],
        ["lora", "olora", "lora", "first", "olora", "first"],
        ["lora", "lora", "lora", "first", None, "olora"],
    ],
    ids=["side by side", "in turns", "uneven"],
)
def test_every_way_through_a_layer_is_exact(adapters, alone, rows, large, tokens, monkeypatch):
    monkeypatch.setattr(segmented, "LARGE_ROW_BYTES", large)
    ids = {"input_ids": torch.randint(3, 300, (6, tokens), generator=torch.Generator().manual_seed(1))}
    with adapters.rows(rows):
        mixed = logits(adapters.model, ids)
    for row, name in enumerate(rows):
        torch.testing.assert_close(mixed[row], logits(alone(name), ids)[row], rtol=0, atol=1e-5)


def test_rows_of_the_base_are_the_base_bit_for_bit(adapters, alone, batch):
    with adapters.rows(ROWS):
        mixed = logits(adapters.model, batch)
    for row in (row for row, name in enumerate(ROWS) if name is None):
        assert torch.equal(mixed[row], logits(alone(None), batch)[row])
    assert torch.equal(logits(adapters.model, batch), logits(alone(None), batch))


def test_decoding_with_a_cache_is_exact_too(adapters, alone, batch):
    step = {"input_ids": torch.arange(5, 5 + len(ROWS))[:, None]}
    step["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (0, 1), value=1)

    def two_steps(model):
        with torch.no_grad():
            cache = model(**batch, use_cache=True).past_key_values
        return logits(model, step, past_key_values=cache)[:, 0]

    with adapters.rows(ROWS):
        mixed = two_steps(adapters.model)
    for row, name in enumerate(ROWS):
        torch.testing.assert_close(mixed[row], two_steps(alone(name))[row], rtol=0, atol=1e-5)


def test_generated_answers_are_those_of_each_adapter_alone(adapters, alone):
    prompts = [f"say {'x' * length}" for length in range(len(ROWS))]
    mixed = adapters.generate(prompts, ROWS, max_new_tokens=8, batch_size=4)
    for prompt, name, answer in zip(prompts, ROWS, mixed, strict=True):
        assert [answer] == greedy(alone(name), adapters.tokenizer, [prompt], max_new_tokens=8)


def test_rows_that_end_early_do_not_disturb_the_others(adapters, alone):
    rows = ["lora", "olora", "lora", None]
    ids = torch.tensor([[10], [20], [30], [40]])
    ends = int(alone("lora").generate(ids[:1], max_new_tokens=2, do_sample=False)[0, 2])
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": ends, "pad_token_id": 0}
    with adapters.rows(rows):
        mixed = adapters.model.generate(ids, **settings)
    for row, name in enumerate(rows):
        expected = alone(name).generate(ids[row : row + 1], **settings)[0]
        assert torch.equal(mixed[row, : len(expected)], expected)
        assert not mixed[row, len(expected) :].any()


def test_the_head_reads_its_weight_once_for_all_rows_whoever_generates(adapters):
    given = []
    head = adapters.model.get_output_embeddings()
    watched = head.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    ids = torch.tensor([[10, 11], [20, 21]])
    adapters.model.generate(ids, max_new_tokens=2, do_sample=False, eos_token_id=None)
    watched.remove()
    assert given[0].shape[:2] == (2, 1) and all(each.is_contiguous() for each in given)


def test_beams_are_rows(adapters, alone):
    ids = torch.tensor([[10, 11], [20, 21]])
    settings = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "eos_token_id": None}
    with adapters.rows(["lora", "lora", "olora", "olora"]):
        mixed = adapters.model.generate(ids, **settings)
    assert torch.equal(mixed[:1], alone("lora").generate(ids[:1], **settings))
    assert torch.equal(mixed[1:], alone("olora").generate(ids[1:], **settings))


def test_switching_chooses_for_every_row_of_any_batch(adapters, alone, batch):
    adapters.switch("olora")
    try:
        torch.testing.assert_close(
            logits(adapters.model, batch), logits(alone("olora"), batch), rtol=0, atol=1e-5
        )
        with adapters.rows([None] * len(ROWS)):
            assert torch.equal(logits(adapters.model, batch), logits(alone(None), batch))
    finally:
        adapters.switch(None)
    assert torch.equal(logits(adapters.model, batch), logits(alone(None), batch))


@pytest.mark.parametrize(("base", "names"), [("nf4", ["over-nf4"]), ("icq", ["iec", "over-icq"])])
def test_rows_over_a_quantized_base_are_exact(served, tiny_base, registry, base, names, batch):
    adapters = load_adapters({name: served(name) for name in names}, registry, base=str(tiny_base))
    rows = ([*names, None] * len(ROWS))[: len(ROWS)]
    with adapters.rows(rows):
        mixed = logits(adapters.model, batch)
    for name in names:
        expected = logits(load_adapted(served(name), registry, base=str(tiny_base)).model, batch)
        for row in (row for row, each in enumerate(rows) if each == name):
            torch.testing.assert_close(mixed[row], expected[row], rtol=0, atol=1e-5)


def test_a_prepared_base_serves_as_its_source_does(served, tiny_base, registry, batch, tmp_path):
    prepared = prepare(tiny_base, tmp_path / "prepared", "nf4")
    rows = ["over-nf4", None, None] * 3
    mixed = []
    for base in (prepared, tiny_base):
        adapters = load_adapters({"over-nf4": served("over-nf4")}, registry, base=str(base))
        with adapters.rows(rows):
            mixed.append(logits(adapters.model, batch))
    assert torch.equal(*mixed)


def test_in_sixteen_bits_rows_are_within_their_rounding(served, tiny_base, registry, batch):
    settings = {"base": str(tiny_base), "dtype": "bfloat16"}
    adapters = load_adapters({name: served(name) for name in ("lora", "olora")}, registry, **settings)
    linears = [adapters.base.linears[site] for site in adapters["lora"].ranks]
    numbers = sum(4 * (linear.in_features + linear.out_features) for linear in linears)
    assert adapters["lora"].size_bytes == 2 * numbers
    rows = ["lora", "olora", None] * 3
    with adapters.rows(rows):
        mixed = logits(adapters.model, batch)
    for name in ("lora", "olora"):
        expected = logits(load_adapted(served(name), registry, **settings).model, batch)
        for row in (row for row, each in enumerate(rows) if each == name):
            difference = (mixed[row] - expected[row]).float().norm() / expected[row].float().norm()
            assert float(difference) < 2e-2


@pytest.mark.parametrize("rows", [["lora"], ["lora"] * 10, [None] * 2, []])
def test_another_number_of_rows_is_refused(adapters, batch, rows):
    with adapters.rows(rows), pytest.raises(PlanError, match=f"adapters were chosen for {len(rows)} rows"):
        logits(adapters.model, batch)


def test_tokens_without_their_rows_are_refused_unless_all_are_of_one_adapter(adapters):
    layer = adapters.model.get_submodule("model.layers.0.self_attn.q_proj")
    tokens = torch.randn(len(ROWS), layer.base.in_features)
    with adapters.rows(ROWS), pytest.raises(PlanError, match="tokens come without their rows"):
        layer(tokens)
    with adapters.rows(["lora"] * len(ROWS)):
        alike = layer(tokens)
    adapters.switch("lora")
    try:
        torch.testing.assert_close(layer(tokens), alike)
        with adapters.rows([None]):
            assert torch.equal(layer(tokens), layer.base(tokens))
    finally:
        adapters.switch(None)


@pytest.mark.parametrize(("rows", "unknown"), [(["lora", "lore"], "lore"), ("lora", "l")])
def test_rows_of_an_unknown_adapter_are_refused(adapters, rows, unknown):
    with pytest.raises(AdapterNotFound, match=f"no adapter is loaded as '{unknown}'") as caught:
        adapters.rows(rows).__enter__()
    assert caught.value.fix.startswith("loaded are: lora, sites, olora")
