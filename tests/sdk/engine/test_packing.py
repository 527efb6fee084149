"""Packing through the whole job: it changes what a step costs and not what it computes."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_tokenizer, write_rows

from edgelora.engine.report import QuietReporter
from edgelora.errors import CombinationError, Interrupted
from edgelora.run import run


def weights(result):
    (file,) = result.folder.glob("*.safetensors")
    return load_file(file)


def steps(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


class Told(QuietReporter):
    """Remembers what it is told, and sends SIGTERM to this process when a step is reported."""

    def __init__(self, stop_at=None):
        self.messages, self.stop_at = [], stop_at

    def message(self, text):
        self.messages.append(text)

    def step(self, record):
        if record["step"] == self.stop_at:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def two_tasks(rows, tmp_path):
    other = write_rows(tmp_path / "other.jsonl", 60, seed=1)
    return [{"path": str(rows), "task": "versions"}, {"path": str(other), "task": "decimals"}]


DERIVATIVES = {
    "lora": {},
    "qlora": {},
    "dora": {},
    "adalora": {"rank_scheduler": {"target_rank": 2, "warmup_steps": 0, "final_steps": 2, "every": 1}},
    "mtlora": {"loss_combiner": "uncertainty"},
}


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_a_packed_run_learns_what_the_padded_one_learns(recipe, registry, tmp_path, two_tasks, derivative):
    changes = {"derivative": derivative, "data": two_tasks, **DERIVATIVES[derivative]}
    settings = {"batch_size": 2, "accumulation": 4, "max_length": 512, "gradient_checkpointing": True}
    found = []
    for packing in (False, True):
        out = tmp_path / str(packing)
        result = run(recipe({**settings, "packing": packing}, out=str(out), **changes), registry)
        found.append((weights(result), steps(out)))
    (padded, padded_steps), (packed, packed_steps) = found
    for one, other in zip(padded_steps, packed_steps, strict=True):
        for name in ("tokens", "labelled_tokens", "longest"):
            assert one[name] == other[name]
        assert one["sequences"] > other["sequences"]
    assert packed_steps[0]["loss"] == pytest.approx(padded_steps[0]["loss"], rel=1e-6)
    assert packed_steps[0]["gradient_norm"] == pytest.approx(padded_steps[0]["gradient_norm"], rel=1e-5)
    assert packed.keys() == padded.keys()
    # AdamW divides by the gradient's size, which enlarges differences in the last bit of small gradients.
    assert max(float((packed[name] - tensor).abs().max()) for name, tensor in padded.items()) < 1e-4


def test_a_streamed_run_packs_as_well(recipe, registry, tmp_path):
    settings = {"packing": True, "max_length": 512, "gradient_checkpointing": True, "max_steps": 3}
    resident = weights(run(recipe(settings, out=str(tmp_path / "a")), registry))
    streamed = weights(run(recipe({**settings, "streamed": True}, out=str(tmp_path / "b")), registry))
    assert max(float((streamed[name] - tensor).abs().max()) for name, tensor in resident.items()) < 1e-6


def test_a_packed_run_resumes_bitwise(recipe, registry, tmp_path, two_tasks):
    changes = {"derivative": "mtlora", "data": two_tasks, "adapter": {"rank": 4, "dropout": 0.1}}
    settings = {"packing": True, "max_length": 512, "evaluate_every": 4}
    whole = run(recipe(settings, out=str(tmp_path / "a"), **changes), registry)
    broken = recipe(settings, out=str(tmp_path / "b"), **changes)
    with pytest.raises(Interrupted):
        run(broken, registry, reporter=Told(stop_at=2))
    resumed = run(broken, registry, resume=True)
    expected, found = weights(whole), weights(resumed)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_run_tells_how_well_its_rows_pack(recipe, registry, tmp_path):
    told = Told()
    run(recipe({"packing": True, "max_length": 512, "max_steps": 2}), registry, reporter=told)
    (line,) = [message for message in told.messages if message.startswith("packing: ")]
    assert line.startswith("packing: 8 rows in ")
    taken = steps(tmp_path / "run")
    assert f" in {sum(step['sequences'] for step in taken)} sequences, " in line
    assert sum(step["tokens"] for step in taken) > 0


def test_a_base_that_cannot_is_refused_before_an_earlier_run_gives_way(recipe, registry, tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    base = tmp_path / "mamba"
    save_tokenizer(base)
    sizes = {"vocab_size": 320, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}
    MambaForCausalLM(MambaConfig(**sizes)).save_pretrained(base)
    changes = {"base": str(base), "adapter": {"rank": 2, "target_modules": ["in_proj"]}}
    before = weights(run(recipe({"max_steps": 1}, **changes), registry))
    with pytest.raises(CombinationError, match="MambaForCausalLM cannot be trained on packed rows") as caught:
        run(recipe({"max_steps": 1, "packing": True}, **changes), registry, overwrite=True)
    assert caught.value.fix == "set train.packing: false"
    assert load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors").keys() == before.keys()
