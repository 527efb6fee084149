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


def test_loading_peft_tells_nothing_of_optional_kernels():
    code = "import edgelora_plugins.peft.adapter"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert "gemm_4bit" not in told


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
    assert plan(adapter={"name": name, "num_virtual_tokens": 4}).parts["adapter"].name == "prompt-tuning"


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


@pytest.mark.parametrize("name", ["cartridge", "p-tuning", "prefix-tuning", "prompt-tuning"])
def test_what_peft_cannot_do_without_is_asked_for_and_has_a_usual_value_in_the_derivative(name):
    for options in ({}, {"num_virtual_tokens": None}):
        with pytest.raises(OptionsError, match="num_virtual_tokens") as caught:
            plan(adapter={"name": f"peft:{name}", **options})
        assert "num_virtual_tokens" in caught.value.fix
    assert plan(derivative=f"peft:{name}").parts["adapter"].options.num_virtual_tokens == 20
    changed = plan(derivative=f"peft:{name}", adapter={"num_virtual_tokens": 3})
    assert changed.parts["adapter"].options.num_virtual_tokens == 3


@pytest.mark.parametrize(
    ("name", "option"),
    [("vera", "r"), ("prompt-tuning", "num_virtual_tokens"), ("c3a", "block_size")],
)
def test_a_size_of_nothing_is_refused_when_planned(name, option):
    with pytest.raises(OptionsError, match=f"{option} is 0: input should be greater than or equal to 1"):
        plan(adapter={"name": f"peft:{name}", option: 0})


def test_what_may_be_0_in_peft_may_be_0():
    plan(adapter={"name": "peft:oft", "r": 0})
    plan(adapter={"name": "peft:waveft", "random_loc_seed": 0})
    plan(adapter={"name": "peft:psoft", "psoft_svd_lowrank_niter": 0})
    plan(adapter={"name": "peft:cartridge", "num_virtual_tokens": 4, "num_frozen_tokens": 0})


@pytest.mark.parametrize("name", ["peft:poly", "peft:POLY", "poly"])
def test_a_derivative_of_what_cannot_be_used_is_refused_with_the_reason_of_its_adapter(name):
    with pytest.raises(PartNotFound, match="no plugin offers a derivative") as caught:
        plan(derivative=name)
    assert caught.value.problem.endswith(f": adapter peft:poly cannot be used: {METHODS['poly'].unusable}")


@pytest.mark.parametrize("kind", ["adapter", "derivative"])
@pytest.mark.parametrize("name", ["veraa", "peft:veraa", "Veraa"])
def test_what_was_probably_meant_is_written_as_recipes_must_write_it(kind, name):
    with pytest.raises(PartNotFound) as caught:
        plan(**{kind: name})
    assert caught.value.fix == "did you mean 'peft:vera'?"


@pytest.mark.parametrize("kind", ["adapter", "derivative"])
@pytest.mark.parametrize("name", ["peft:", "peft"])
def test_the_plugin_alone_is_answered_with_what_may_stand_behind_it(kind, name):
    with pytest.raises(PartNotFound) as caught:
        plan(**{kind: name})
    assert caught.value.fix.startswith("write one of ") and "peft:vblora, peft:vera, " in caught.value.fix


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
        plan({"gradient_checkpointing": True}, derivative="peft:prefix-tuning")


@pytest.mark.parametrize("name", ["cartridge", "p-tuning", "prefix-tuning", "prompt-tuning"])
def test_tokens_before_each_row_are_refused_with_packed_rows(name):
    with pytest.raises(
        CombinationError, match=f"peft:{name} cannot work with train.packing: it puts"
    ) as caught:
        plan({"packing": True}, derivative=f"peft:{name}")
    assert caught.value.fix == "set train.packing: false, or choose another adapter"
    plan({"packing": True}, derivative="peft:vera")


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
    with pytest.raises(
        OptionsError, match=r"cannot take these options: PEFT .* raised ValueError: "
    ) as caught:
        plan(adapter={"name": "peft:vera", "layers_pattern": "h"}).build("adapter")
    assert caught.value.fix == (
        "set layers_to_transform or layers_pattern to something else; "
        "all of them: edgelora plugins show peft:vera"
    )
