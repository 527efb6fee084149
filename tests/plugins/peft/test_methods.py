"""What is known of PEFT's methods before it is imported is what the installed one has."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgelora.errors import CombinationError, OptionsError, PartNotFound, PlanError
from edgelora.plan import make_plan
from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora_plugins.peft.methods import METHODS

REGISTRY = Registry.discover()
USABLE = [name for name, method in METHODS.items() if not method.unusable]


def plan(train=None, **changes):
    document = {"base": "micro", "data": [{"path": "rows.jsonl"}], "train": train or {}}
    return make_plan(make_recipe(document | changes), REGISTRY)


def generator():
    path = Path(__file__).resolve().parents[3] / "tools" / "peft_fields.py"
    spec = importlib.util.spec_from_file_location("peft_fields", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_type_of_peft_and_every_field_is_there():
    made = generator()
    found = json.loads(json.dumps(made.fields()))
    assert json.loads(made.FIELDS.read_text()) == found, "run: python tools/peft_fields.py"
    assert {name.lower().replace("_", "-") for name in found} == METHODS.keys()
    assert list(METHODS) == sorted(METHODS)


def test_a_method_is_planned_without_importing_peft():
    code = (
        "import sys; from edgelora.plan import make_plan; from edgelora.recipe import make_recipe; "
        "from edgelora.registry import Registry; "
        "make_plan(make_recipe({'base': 'micro', 'derivative': 'peft:vera'}), Registry.discover()); "
        "assert not {'peft', 'torch'} & sys.modules.keys(), 'imported'"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_the_bare_names_of_other_plugins_stay_theirs():
    for name in ("lora", "adalora"):
        assert plan(derivative=name).origin.plugin == name
        assert plan(adapter={"name": name} if name == "lora" else None).parts["adapter"].plugin == "lora"
    assert plan(derivative="peft:lora").parts["adapter"].plugin == "peft"
    assert not [warning for warning in REGISTRY.warnings if "peft" in warning]


def test_a_bare_name_of_a_method_says_how_to_write_it():
    with pytest.raises(PartNotFound) as caught:
        plan(adapter="vera")
    assert caught.value.fix == "write peft:vera"


@pytest.mark.parametrize("name", ["peft:PROMPT_TUNING", "peft:prompt-tuning", "peft:Prompt-Tuning"])
def test_a_type_may_be_spelled_as_peft_does(name):
    assert plan(adapter=name).parts["adapter"].name == "prompt-tuning"


@pytest.mark.parametrize(
    ("options", "problem", "fix"),
    [
        ({"d_inital": 0.2}, "there is no option 'd_inital'", "did you mean 'd_initial'?"),
        ({"r": "many"}, "r is 'many'", "change r (Rank.)"),
    ],
)
def test_a_wrong_option_is_refused_when_planned(options, problem, fix):
    with pytest.raises(OptionsError, match=problem) as caught:
        plan(adapter={"name": "peft:vera", **options})
    assert caught.value.fix == fix


@pytest.mark.parametrize("name", sorted(METHODS.keys() - USABLE))
def test_what_cannot_be_used_is_refused_with_its_reason(name):
    with pytest.raises(PlanError) as caught:
        plan(adapter=f"peft:{name}")
    assert caught.value.problem == f"adapter peft:{name} cannot be used: {METHODS[name].unusable}"


def test_a_method_that_reads_weights_is_refused_over_a_quantized_base():
    plan(adapter="peft:hira")
    with pytest.raises(CombinationError, match=r"peft:hira cannot work with quantizer 'nf4'"):
        plan(adapter="peft:hira", quantizer="nf4")


def test_a_method_in_the_cache_is_refused_with_checkpointing():
    with pytest.raises(CombinationError, match=r"prefix-tuning cannot work with train.gradient_checkpoint"):
        plan({"gradient_checkpointing": True}, adapter="peft:prefix-tuning")


def test_an_option_whose_loss_nobody_would_add_is_refused():
    with pytest.raises(CombinationError, match=r"peft:lora cannot work with option 'kasa_config'"):
        plan(adapter={"name": "peft:lora", "kasa_config": {"beta": 0.1}})


@pytest.mark.parametrize(("name", "bias"), [("lora", "all"), ("lora", "lora_only"), ("boft", "boft_only")])
def test_biases_of_the_base_that_would_learn_are_refused(name, bias):
    plan(adapter={"name": f"peft:{name}", "bias": "none"})
    with pytest.raises(CombinationError, match=f"peft:{name} cannot work with bias '{bias}'"):
        plan(adapter={"name": f"peft:{name}", "bias": bias})


def test_what_learns_stays_in_float32():
    with pytest.raises(CombinationError, match=r"vera cannot work with train.adapter_dtype"):
        plan({"adapter_dtype": "bfloat16"}, adapter="peft:vera")


def test_peft_itself_refuses_values_that_do_not_fit():
    with pytest.raises(OptionsError, match=r"refuses its options: .*layers_pattern"):
        plan(adapter={"name": "peft:vera", "layers_pattern": "h"}).build("adapter")
