"""What PEFT says against options, or does to them unasked, on a model: one error that names the option."""

import pytest
from peft_runs import recipe_of, save_base

from edgelora.engine.base import load_base
from edgelora.engine.estimating.estimate import estimate
from edgelora.engine.inject import inject
from edgelora.errors import ModelError, OptionsError
from edgelora.plan import make_plan
from edgelora.registry import Registry
from edgelora_plugins.peft.methods import METHODS


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.fixture(scope="module")
def base_and_rows(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("peft"))


@pytest.fixture
def plan_of(registry, base_and_rows, tmp_path):
    def plan(name, options):
        return make_plan(recipe_of(name, *base_and_rows, tmp_path / "run", adapter=options), registry)

    return plan


@pytest.fixture
def refused(plan_of):
    """The refusal of a method's options, and the model they were tried on, as it was before."""

    def refusal(name, options):
        plan = plan_of(name, options)
        model = load_base(plan)
        modules = list(model.modules())
        with pytest.raises(OptionsError) as caught:
            inject(model, plan)
        assert list(model.modules()) == modules
        return caught.value

    return refusal


@pytest.mark.parametrize(
    ("name", "options", "problem", "option"),
    [
        ("vblora", {"vector_length": 7}, "ValueError: `in_features` ", "vector_length"),
        ("c3a", {"block_size": 7}, "ValueError: ", "block_size"),
        ("waveft", {"n_frequency": 10**6}, "ValueError: ", "n_frequency"),
    ],
)
def test_whatever_peft_raises_names_the_method_and_the_option(refused, name, options, problem, option):
    refusal = refused(name, options)
    assert refusal.problem.startswith(f"adapter peft:{name} cannot adapt this LlamaForCausalLM: PEFT ")
    assert f" raised {problem}" in refusal.problem
    assert refusal.fix.startswith(f"set {option} to something else; all of them: ")
    assert refusal.fix.endswith(f"edgelora plugins show peft:{name}")


@pytest.mark.parametrize(
    ("name", "options", "problem", "fix"),
    [
        (
            "vera",
            {"target_modules": ["q_proj", "v_prj"]},
            "target_modules: 'v_prj' names no module",
            "'v_proj'",
        ),
        ("vera", {"target_modules": "q_proj"}, "target_modules: 'q_proj', one regular", "write [q_proj]; "),
        ("vera", {"target_modules": ["nowhere"]}, "target_modules: 'nowhere' names", "called down_proj, "),
        ("lora", {"exclude_modules": ["k_prj"]}, "exclude_modules: 'k_prj' names", "'k_proj'"),
        ("lora", {"rank_pattern": {"q_prj": 2}}, "rank_pattern: 'q_prj' matches no module", "'q_proj'"),
        (
            "lora",
            {"target_modules": "q_proj("},
            "target_modules holds no regular expression",
            "[q_proj, v_proj]",
        ),
        ("vera", {"layers_to_transform": [0, 99]}, "there is no block 99", "indices from 0 to "),
    ],
)
def test_names_that_the_model_lacks_are_told_with_those_it_has(refused, name, options, problem, fix):
    refusal = refused(name, options)
    assert problem in refusal.problem and fix in refusal.fix


def test_a_number_that_peft_would_replace_is_refused_with_both(refused):
    refusal = refused("oft", {"oft_block_size": 7})
    assert refusal.problem.startswith("adapter peft:oft: oft_block_size is 7, and PEFT ")
    assert " would take 8 instead at model.layers.0.self_attn." in refusal.problem
    assert refusal.fix == "choose another oft_block_size, which PEFT keeps, such as 8"


def test_an_option_that_peft_warns_it_ignores_is_refused(refused):
    refusal = refused("boft", {"boft_n_butterfly_factor": 2})
    assert " says: Setting boft_n_butterfly_factor to 1 " in refusal.problem
    assert refusal.fix.startswith("set boft_n_butterfly_factor to something else; all of them: ")


def test_what_patterns_choose_is_kept(plan_of):
    for name, options in (
        ("lora", {"r": 4, "rank_pattern": {"q_proj": 2}}),
        ("c3a", {"block_size": 16, "block_size_pattern": {"q_proj": 8}}),
    ):
        plan = plan_of(name, {"target_modules": ["q_proj", "k_proj"], **options})
        inject(load_base(plan), plan)


def test_modules_to_save_are_named_by_any_ending_as_in_peft(plan_of, refused):
    plan = plan_of("vera", {"r": 4, "modules_to_save": ["layernorm"]})
    inject(load_base(plan), plan)
    assert "'layernorms' names no module" in refused("vera", {"modules_to_save": ["layernorms"]}).problem


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("oft", {"r": 8, "oft_block_size": 0}),
        ("boft", {"boft_block_num": 8, "boft_block_size": 0}),
    ],
)
def test_blocks_may_be_counted_instead_of_sized(plan_of, name, options):
    plan = plan_of(name, options)
    inject(load_base(plan), plan)


def test_an_adapter_in_which_nothing_learns_is_refused(refused):
    refusal = refused("trainable-tokens", {"token_indices": []})
    assert refusal.problem == "with these options adapter peft:trainable-tokens has nothing that learns"


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("oft", {"oft_block_size": 7}, "oft_block_size is 7, and PEFT "),
        ("vblora", {"vector_length": 7}, "raised ValueError: `in_features` "),
        ("vera", {"target_modules": ["nowhere"]}, "'nowhere' names no module"),
        ("vera", {"target_modules": "q_proj("}, "target_modules holds no regular expression"),
    ],
)
def test_an_estimate_refuses_the_same(plan_of, name, options, problem):
    with pytest.raises(OptionsError, match=problem):
        estimate(plan_of(name, options))


@pytest.mark.parametrize("name", ["frod", "shira", "unilora"])
def test_what_reads_values_to_start_is_to_be_measured(plan_of, name):
    with pytest.raises(ModelError, match="the adapter cannot be started without memory: ") as caught:
        estimate(plan_of(name, dict(METHODS[name].small)))
    assert caught.value.fix == "measure it instead: edgelora estimate RECIPE --measure"
