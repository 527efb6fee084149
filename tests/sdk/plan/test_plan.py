"""A recipe becomes a plan: names resolved, options validated, illegal combinations refused, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import Field

from edgelora import Derivative, Options, Part, hookimpl
from edgelora.errors import (
    AmbiguousPart,
    CombinationError,
    DependencyMissing,
    EdgeloraError,
    OptionsError,
    PartNotFound,
    PlanError,
    PluginBug,
    PluginMissing,
)
from edgelora.plan import Plan, make_plan, part_from_document, plan_from_document
from edgelora.recipe import make_recipe
from edgelora.registry import Registry


class AdapterOptions(Options):
    rank: int = Field(8, ge=1, description="Rank of the update.")
    alpha: float = 8.0
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    start: Literal["zeros", "normal"] = Field("zeros", description="How B starts.")


class BlockOptions(Options):
    block_size: int = 64
    double: bool = True


class Echo:
    """Meets every protocol, and keeps the options it was built with."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def __call__(self, *_: Any) -> Any: ...

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


def answering(offers: Any) -> Any:
    return lambda: offers


def plugin(
    *,
    quantizers: tuple[Part, ...] = (),
    adapters: tuple[Part, ...] = (),
    rank_schedulers: tuple[Part, ...] = (),
    loss_combiners: tuple[Part, ...] = (),
    evaluators: tuple[Part, ...] = (),
    derivatives: tuple[Derivative, ...] = (),
) -> SimpleNamespace:
    offered = {
        "quantizers": quantizers,
        "adapters": adapters,
        "rank_schedulers": rank_schedulers,
        "loss_combiners": loss_combiners,
        "evaluators": evaluators,
        "derivatives": derivatives,
    }
    hooks = {}
    for name, offers in offered.items():
        hooks[f"edgelora_{name}"] = hookimpl(answering(offers))
    return SimpleNamespace(**hooks)


HERE = "plan_targets"


@pytest.fixture(autouse=True)
def targets(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An importable module with `Echo`, which parts of these tests name as target."""
    module = SimpleNamespace(Echo=Echo, Number=lambda options: 3, Bare=lambda: None, Wrong=refuse)
    monkeypatch.setitem(sys.modules, HERE, module)  # type: ignore[misc]
    return module


def refuse(options: Options) -> None:
    raise ValueError("64 is no prime")


BASELINE = plugin(
    quantizers=(Part(name="none", target=f"{HERE}:Echo"),),
    rank_schedulers=(Part(name="constant", target=f"{HERE}:Echo"),),
    loss_combiners=(Part(name="sum", target=f"{HERE}:Echo"),),
    evaluators=(
        Part(name="loss", target=f"{HERE}:Echo"),
        Part(name="litmus", target=f"{HERE}:Echo", options=BlockOptions),
    ),
)
METHODS = plugin(
    quantizers=(
        Part(name="four-bit", target=f"{HERE}:Echo", options=BlockOptions),
        Part(name="two-bit", target=f"{HERE}:Echo", options=BlockOptions),
    ),
    adapters=(
        Part(name="low-rank", target=f"{HERE}:Echo", options=AdapterOptions),
        Part(
            name="picky",
            target=f"{HERE}:Echo",
            options=AdapterOptions,
            refuses={"quantizer:two-bit": "it reads rows of the base"},
        ),
    ),
    derivatives=(
        Derivative(
            name="quartet",
            summary="a quarter of the bits",
            paper="arXiv:0000.00000",
            parts={
                "quantizer": {"name": "four-bit", "block_size": 32},
                "adapter": {"name": "low-rank", "rank": 4},
                "evaluator": ["loss", {"name": "litmus", "block_size": 16}],
            },
        ),
        Derivative(name="plain", parts={"adapter": "low-rank"}),
        Derivative(name="open"),
    ),
)


def registry_of(**more: object) -> Registry:
    return Registry.from_modules({"baseline": BASELINE, "methods": METHODS, **more})


def plan_of(registry: Registry | None = None, **recipe: Any) -> Plan:
    return make_plan(make_recipe({"base": "micro", **recipe}), registry or registry_of())


def options_of(plan: Plan, kind: Any) -> Mapping[str, Any]:
    return plan.parts[kind].options.model_dump()


def assert_error(kind: type[EdgeloraError], problem: str, fix: str, **recipe: Any) -> None:
    with pytest.raises(kind) as caught:
        plan_of(**recipe)
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_kinds_a_derivative_leaves_out_take_the_baseline() -> None:
    plan = plan_of(derivative="plain")
    assert {kind: part.name for kind, part in plan.parts.items()} == {
        "quantizer": "none",
        "adapter": "low-rank",
        "rank_scheduler": "constant",
        "loss_combiner": "sum",
    }
    assert [evaluator.name for evaluator in plan.evaluators] == ["loss"]


def test_a_derivative_sets_parts_and_their_options() -> None:
    plan = plan_of(derivative="quartet")
    assert options_of(plan, "quantizer") == {"block_size": 32, "double": True}
    assert options_of(plan, "adapter")["rank"] == 4
    assert [evaluator.name for evaluator in plan.evaluators] == ["loss", "litmus"]
    assert plan.evaluators[1].options.model_dump()["block_size"] == 16


@pytest.mark.parametrize("name", [{}, {"name": "four-bit"}, {"name": "methods:four-bit"}])
def test_options_of_the_same_part_come_on_top_of_the_derivatives(name: dict[str, str]) -> None:
    plan = plan_of(derivative="quartet", quantizer={**name, "double": False})
    assert options_of(plan, "quantizer") == {"block_size": 32, "double": False}


def test_another_part_starts_from_its_own_defaults() -> None:
    plan = plan_of(derivative="quartet", quantizer={"name": "two-bit", "double": False})
    assert plan.parts["quantizer"].name == "two-bit"
    assert options_of(plan, "quantizer") == {"block_size": 64, "double": False}


def test_a_recipe_chooses_its_evaluators_and_keeps_the_derivatives_options_for_them() -> None:
    plan = plan_of(derivative="quartet", evaluators=[{"name": "litmus", "double": False}])
    (evaluator,) = plan.evaluators
    assert evaluator.options == BlockOptions(block_size=16, double=False)
    assert plan_of(derivative="quartet", evaluators=[]).evaluators == ()


def test_tasks_are_named_once_in_the_order_of_the_data() -> None:
    data = [{"path": f"{index}.jsonl", "task": task} for index, task in enumerate("bab")]
    assert plan_of(derivative="plain", data=data).tasks == ("b", "a")
    assert plan_of(derivative="plain").tasks == ("main",)


def test_several_tasks_need_no_adapter_that_knows_tasks() -> None:
    data = [{"path": "a.jsonl", "task": "a"}, {"path": "b.jsonl", "task": "b"}]
    assert "TaskAware" not in plan_of(derivative="plain", data=data).parts["adapter"].part.abilities


def test_an_unknown_option_names_part_plugin_option_and_the_nearest() -> None:
    assert_error(
        OptionsError,
        "adapter 'low-rank' of plugin methods: there is no option 'ranc'",
        "did you mean 'rank'?",
        derivative="plain",
        adapter={"ranc": 4},
    )


def test_an_option_like_no_other_comes_with_all_of_them() -> None:
    assert_error(
        OptionsError,
        "no option 'zzz'",
        "its options: block_size, double",
        derivative="quartet",
        quantizer={"zzz": 4},
    )


def test_a_wrong_value_comes_with_the_allowed_values_and_the_nearest() -> None:
    assert_error(
        OptionsError,
        "start is 'norml': input should be 'zeros' or 'normal'",
        "did you mean 'normal'? (How B starts.)",
        derivative="plain",
        adapter={"start": "norml"},
    )


def test_a_value_out_of_range_comes_with_the_range() -> None:
    assert_error(
        OptionsError,
        "rank is 0: input should be greater than or equal to 1",
        "change rank (Rank of the update.)",
        derivative="plain",
        adapter={"rank": 0},
    )


def test_a_value_that_should_be_a_list_comes_with_how_to_write_one() -> None:
    assert_error(
        OptionsError,
        "target_modules is 'q_proj': ",
        "write target_modules: [q_proj]",
        derivative="plain",
        adapter={"target_modules": "q_proj"},
    )


def test_a_missing_option_comes_with_how_to_write_it() -> None:
    class Needy(Options):
        folder: str

    needy = plugin(quantizers=(Part(name="needy", target="a:b", options=Needy),))
    assert_error(
        OptionsError,
        "option 'folder' is required",
        "{name: needy:needy, folder: ...}",
        registry=registry_of(needy=needy),
        derivative="plain",
        quantizer="needy",
    )


def test_a_part_that_refuses_another_is_refused_with_the_reason() -> None:
    assert_error(
        CombinationError,
        "adapter 'picky' cannot work with quantizer 'two-bit': it reads rows of the base",
        "choose another quantizer, or another adapter",
        derivative="plain",
        adapter="picky",
        quantizer="two-bit",
    )
    assert plan_of(derivative="plain", adapter="picky", quantizer="four-bit").parts["adapter"].name == "picky"


def test_a_refusal_may_name_an_ability() -> None:
    shy = plugin(
        rank_schedulers=(Part(name="shy", target="a:b", refuses={"AdaptsModel": "it weighs layers"}),),
        adapters=(Part(name="prompt", target="a:b", abilities=("AdaptsModel",)),),
    )
    registry = registry_of(shy=shy)
    assert plan_of(registry, derivative="plain", rank_scheduler="shy").parts["adapter"].name == "low-rank"
    problem = "rank scheduler 'shy' cannot work with adapter 'prompt', which is AdaptsModel: it weighs layers"
    with pytest.raises(CombinationError, match=problem) as caught:
        plan_of(registry, derivative="plain", adapter="prompt", rank_scheduler="shy")
    assert caught.value.fix.startswith("choose another adapter, or another rank scheduler")


def test_an_ability_that_is_asked_for_comes_with_the_parts_that_have_it() -> None:
    def nested(*names: str, **more: Any) -> tuple[Part, ...]:
        return tuple(
            Part(name=name, target="a:b", options=AdapterOptions, abilities=("Nested",), **more)
            for name in names
        )

    asking = plugin(rank_schedulers=(Part(name="asking", target="a:b", needs={"Nested": "it cuts"}),))
    problem = "cannot work with adapter 'low-rank', which is not Nested: it cuts"
    for offers, names in (
        ({}, "none is installed"),
        ({"one": plugin(adapters=nested("dolls", "gone", unusable="it asks"))}, "none is installed"),
        ({"one": plugin(adapters=nested("dolls", "rings"))}, "dolls, rings"),
        (
            {"one": plugin(adapters=nested("dolls")), "two": plugin(adapters=nested("dolls"))},
            "one:dolls, two:dolls",
        ),
        ({"one": plugin(adapters=nested("dolls", qualified_only=True))}, "one:dolls"),
    ):
        with pytest.raises(CombinationError, match=problem) as caught:
            plan_of(registry_of(asking=asking, **offers), derivative="plain", rank_scheduler="asking")
        asked = f"choose an adapter that is Nested ({names}), or another rank scheduler"
        assert caught.value.fix == asked


def test_a_refusal_may_name_one_plugins_part_only() -> None:
    jealous = plugin(
        quantizers=(Part(name="two-bit", target="a:b", refuses={"adapter:methods:low-rank": "no"}),)
    )
    registry = registry_of(jealous=jealous)
    with pytest.raises(CombinationError, match="quantizer 'two-bit' cannot work with adapter 'low-rank'"):
        plan_of(registry, derivative="plain", quantizer="jealous:two-bit")


def test_a_derivative_without_adapter_needs_one_from_the_recipe() -> None:
    assert_error(PlanError, "derivative 'open' names no adapter", "adapter: {name: lora}", derivative="open")
    assert plan_of(derivative="open", adapter="low-rank").parts["adapter"].name == "low-rank"


def test_an_evaluator_needs_a_name() -> None:
    assert_error(
        PlanError,
        "has options {'n': 3} but no name",
        "{name: loss",
        derivative="plain",
        evaluators=[{"n": 3}],
    )


def test_an_evaluator_listed_twice_is_refused() -> None:
    assert_error(
        PlanError,
        "evaluators lists 'loss' twice",
        "remove one",
        derivative="plain",
        evaluators=["loss", "loss"],
    )


def test_an_adapter_without_the_options_every_adapter_has_is_a_bug_of_its_plugin() -> None:
    bare = plugin(adapters=(Part(name="bare", target="a:b", options=BlockOptions),))
    assert_error(
        PluginBug,
        "its options lack target_modules, which every adapter that wraps sites has",
        "tell its author",
        registry=registry_of(bare=bare),
        derivative="plain",
        adapter="bare",
    )


def test_an_adapter_of_the_whole_model_needs_no_target_modules() -> None:
    prompt = plugin(adapters=(Part(name="prompt", target="a:b", abilities=("AdaptsModel",)),))
    plan = plan_of(registry_of(prompt=prompt), derivative="plain", adapter="prompt")
    assert plan.parts["adapter"].plugin == "prompt"


def test_a_part_that_cannot_be_used_is_refused_with_its_reason() -> None:
    broken = plugin(adapters=(Part(name="mix", target="a:b", options=AdapterOptions, unusable="it asks"),))
    with pytest.raises(PlanError, match="adapter broken:mix cannot be used: it asks") as caught:
        plan_of(registry_of(broken=broken), derivative="plain", adapter="mix")
    assert caught.value.fix == "choose another adapter; see: edgelora plugins list"


def test_another_plugin_cannot_make_a_derivative_or_the_baseline_ambiguous() -> None:
    rival = plugin(
        quantizers=(Part(name="none", target="a:b"), Part(name="four-bit", target="a:b")),
        evaluators=(Part(name="loss", target="a:b"),),
    )
    registry = registry_of(rival=rival)
    assert plan_of(registry, derivative="quartet").parts["quantizer"].plugin == "methods"
    plain = plan_of(registry, derivative="plain")
    assert plain.parts["quantizer"].plugin == plain.evaluators[0].plugin == "baseline"
    with pytest.raises(AmbiguousPart):
        plan_of(registry, derivative="plain", quantizer="none")
    other = plan_of(registry, derivative="quartet", quantizer="rival:four-bit")
    assert other.parts["quantizer"].plugin == "rival" and options_of(other, "quantizer") == {}


def test_a_qualified_name_settles_what_a_derivative_left_open_and_keeps_its_options() -> None:
    borrower = plugin(derivatives=(Derivative("lender", parts={"adapter": {"name": "low-rank", "rank": 2}}),))
    rival = plugin(adapters=(Part(name="low-rank", target="a:b", options=AdapterOptions),))
    registry = registry_of(borrower=borrower, rival=rival)
    with pytest.raises(AmbiguousPart):
        plan_of(registry, derivative="lender")
    plan = plan_of(registry, derivative="lender", adapter="rival:low-rank")
    assert options_of(plan, "adapter")["rank"] == 2


def test_a_derivative_may_name_a_part_of_another_plugin_so_that_a_third_changes_nothing() -> None:
    borrower = plugin(
        derivatives=(Derivative("lender", parts={"adapter": {"name": "methods:low-rank", "rank": 2}}),)
    )
    rival = plugin(adapters=(Part(name="low-rank", target="a:b", options=AdapterOptions),))
    registry = registry_of(borrower=borrower, rival=rival)
    for chosen in ({"alpha": 2}, {"name": "methods:low-rank"}):
        plan = plan_of(registry, derivative="lender", adapter=chosen)
        assert plan.parts["adapter"].plugin == "methods" and options_of(plan, "adapter")["rank"] == 2
    other = plan_of(registry, derivative="lender", adapter="rival:low-rank")
    assert other.parts["adapter"].plugin == "rival" and options_of(other, "adapter")["rank"] == 8


def test_a_bare_name_means_the_part_a_derivative_names_in_full_when_there_is_no_other() -> None:
    borrower = plugin(
        derivatives=(Derivative("lender", parts={"adapter": {"name": "methods:low-rank", "rank": 2}}),)
    )
    plan = plan_of(registry_of(borrower=borrower), derivative="lender", adapter={"name": "low-rank"})
    assert options_of(plan, "adapter")["rank"] == 2


@pytest.mark.parametrize("recipe", [{"derivative": "quartett"}, {"derivative": "plain", "adapter": "low"}])
def test_a_name_that_is_not_found_stops_the_plan(recipe: dict[str, str]) -> None:
    with pytest.raises(PartNotFound):
        plan_of(**recipe)


def test_a_plan_survives_json_exactly() -> None:
    registry = registry_of()
    plan = plan_of(
        registry,
        derivative="quartet",
        adapter={"target_modules": ["q_proj"]},
        data=[{"path": "a.jsonl", "task": "a", "held_out": 0.1}],
        train={"max_steps": 3, "betas": [0.9, 0.95]},
    )
    document = json.loads(json.dumps(plan.as_document()))
    again = plan_from_document(document, registry)
    assert again == plan
    assert again.as_document() == document == plan.as_document()
    assert again.describe() == plan.describe()


def test_a_document_that_is_no_plan_is_refused() -> None:
    registry = registry_of()
    document = plan_of(registry, derivative="plain").as_document()
    for damaged in ({}, {**document, "parts": {}}, {**document, "recipe": 3}, {**document, "tasks": None}):
        with pytest.raises(PlanError) as caught:
            plan_from_document(damaged, registry)
        assert "is not one of a plan" in caught.value.problem
        assert "from its recipe again" in caught.value.fix


def test_a_document_whose_plugin_is_gone_names_the_distribution_to_install() -> None:
    document = plan_of(derivative="quartet").as_document()
    with pytest.raises(PluginMissing) as caught:
        plan_from_document(document, Registry.from_modules({"baseline": BASELINE}))
    assert "derivative 'methods:quartet' of local 0 is needed" in caught.value.problem
    assert caught.value.fix == "if you trust it, install it: pip install 'local==0'"
    with pytest.raises(PluginMissing, match="adapter 'methods:low-rank' of local 0 is needed"):
        part_from_document("adapter", document["parts"]["adapter"], Registry.from_modules({}))


def test_a_part_is_built_with_its_options() -> None:
    plan = plan_of(derivative="quartet")
    assert plan.build("quantizer").options == BlockOptions(block_size=32)


@pytest.mark.parametrize(
    ("target", "kind", "problem", "fix"),
    [
        ("no_such_module_here:A", PluginBug, "there is no module no_such_module_here", "tell its author"),
        (
            f"{HERE}:Ecko",
            PluginBug,
            f"there is no Ecko in {HERE}, but Echo",
            "upgrade local (0 is installed)",
        ),
        (f"{HERE}:Bare", PluginBug, "cannot be called with its options", "tell its author"),
        (f"{HERE}:Number", PluginBug, "made a int without quantize, restore", "tell its author"),
        (f"{HERE}:Wrong", OptionsError, "refuses its options: 64 is no prime", "change them"),
    ],
)
def test_a_target_that_breaks_its_hook_is_named(
    target: str, kind: type[EdgeloraError], problem: str, fix: str
) -> None:
    broken = plugin(quantizers=(Part(name="broken", target=target),))
    plan = plan_of(registry_of(broken=broken), derivative="plain", quantizer="broken")
    with pytest.raises(kind) as caught:
        plan.build("quantizer")
    assert "quantizer 'broken' of plugin broken" in caught.value.problem
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_a_target_that_needs_a_package_that_is_not_installed_says_which(environment: Any) -> None:
    (environment.folder / "needs_more.py").write_text("import a_package_nobody_has")
    module = plugin(quantizers=(Part(name="more", target="needs_more:A"),))
    for distribution, fix in (("edgelora", "pip install 'edgelora[train]'"), ("other", "extras other has")):
        registry = Registry.from_modules(
            {"baseline": BASELINE, "methods": METHODS, "more": module}, distribution=distribution
        )
        with pytest.raises(DependencyMissing) as caught:
            plan_of(registry, derivative="plain", quantizer="more").build("quantizer")
        assert "needs a_package_nobody_has, which is not installed" in caught.value.problem
        assert fix in caught.value.fix


def test_the_description_names_each_part_its_plugin_and_its_options() -> None:
    text = plan_of(
        derivative="quartet", data=[{"path": "a.jsonl", "held_out": 0.05}], train={"max_steps": 9}
    ).describe()
    lines = {line[:16].strip(): line[16:] for line in text.splitlines()}
    assert lines["derivative"] == "quartet (from methods, local 0): a quarter of the bits; arXiv:0000.00000"
    assert lines["base"] == "micro"
    assert lines["quantizer"] == "four-bit (from methods, local 0): block_size=32, double=true"
    assert lines["rank scheduler"] == "constant (from baseline, local 0)"
    assert "a.jsonl as task main, format auto, 5.0% held out" in lines["data"]
    assert lines["train"].startswith("9 steps of 2 rows × 4")


def test_planning_imports_nothing_heavy() -> None:
    script = (
        "import json, sys; from edgelora.plan import make_plan; from edgelora.recipe import make_recipe;"
        "from edgelora.registry import HEAVY, Registry; r = Registry.discover();"
        "make_plan(make_recipe({'derivative': 'qlora', 'base': 'micro'}), r).describe();"
        "print(json.dumps([n for n in HEAVY if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_earlier_adapters_are_refused_for_an_adapter_that_does_not_go_on_from_them():
    refused = "adapter 'lora' does not go on from earlier adapters, and 'past' names 'acme/first'"
    with pytest.raises(CombinationError, match=refused) as caught:
        make_plan(make_recipe({"base": "micro", "past": ["acme/first"]}), Registry.discover())
    assert "leave 'past' out" in caught.value.fix


@pytest.mark.parametrize("ability", ["CrossSite", "AdaptsModel"])
def test_an_adapter_that_needs_more_than_two_blocks_is_refused_where_the_base_is_streamed(
    ability: str,
) -> None:
    wide = plugin(adapters=(Part(name="wide", target="a:b", options=AdapterOptions, abilities=(ability,)),))
    registry = registry_of(wide=wide)
    plan_of(registry, derivative="plain", adapter="wide")
    with pytest.raises(CombinationError, match=rf"'wide' cannot work with train.streamed: .*\({ability}\)"):
        plan_of(registry, derivative="plain", adapter="wide", train={"streamed": True})


def test_a_base_that_is_to_be_quantized_is_streamed_only_once_it_is_prepared() -> None:
    streamed: dict[str, Any] = {"train": {"streamed": True}}
    problem = "those of micro hold none that four-bit has quantized"
    fix = "prepare it first: edgelora bases prepare micro --quantizer four-bit"
    assert_error(CombinationError, problem, fix, derivative="quartet", **streamed)
    # Where it lies only transformers finds out, and whether it is prepared.
    plan_of(derivative="quartet", base="OWNER/NAME", **streamed)


def test_the_description_tells_how_the_base_is_placed_and_rows_are_packed() -> None:
    packed = {"packing": True, "gradient_checkpointing": True}
    text = plan_of(derivative="quartet", train=packed, memory_budget="2gib").describe()
    assert "seed 3407, packed, checkpointed" in text
    assert "memory budget   2.00 GiB" in text
    text = plan_of(derivative="quartet", base="OWNER/NAME", train={"streamed": True}).describe()
    assert "seed 3407, streamed" in text
