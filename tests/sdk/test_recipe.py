"""A recipe file is read, changed by ``--set`` and validated, or refused with the line to change."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelora.errors import MissingFile, RecipeError
from edgelora.recipe import Recipe, TrainSettings, make_recipe, read_recipe

FULL = """
derivative: qlora
base: micro
quantizer: {name: nf4, double_quantization: false}
adapter: {rank: 16, target_modules: all-linear}
rank_scheduler: constant
loss_combiner: sum
evaluators: [loss, {name: exact-match, samples: 10}]
data:
  - {path: train.jsonl, task: main, held_out: 0.05}
  - {path: /elsewhere/more.csv, task: other}
train: {max_steps: 300, learning_rate: 2e-4, betas: [0.9, 0.95], threads: auto}
past: [ns/name@1.0.0]
out: runs/first
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def assert_refused(problem: str, fix: str, document: object, *changes: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe(document, changes)
    assert problem in caught.value.problem
    assert fix in caught.value.fix
    assert caught.value.exit_code == 3


def test_a_full_recipe_is_read(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, FULL))
    assert (recipe.derivative, recipe.base) == ("qlora", "micro")
    assert recipe.quantizer and recipe.quantizer.name == "nf4"
    assert recipe.quantizer.options == {"double_quantization": False}
    assert recipe.adapter and recipe.adapter.name is None
    assert recipe.rank_scheduler and (recipe.rank_scheduler.name, recipe.rank_scheduler.options) == (
        "constant",
        {},
    )
    assert [evaluator.name for evaluator in recipe.evaluators or ()] == ["loss", "exact-match"]
    assert recipe.train.learning_rate == 2e-4
    assert recipe.train.betas == (0.9, 0.95)


def test_relative_data_paths_start_at_the_recipes_folder(tmp_path: Path) -> None:
    first, second = read_recipe(write(tmp_path, FULL)).data
    assert first.path == tmp_path / "train.jsonl"
    assert second.path == Path("/elsewhere/more.csv")


def test_the_shortest_recipe_has_defaults_for_all_but_the_base() -> None:
    recipe = make_recipe({"base": "micro"})
    assert recipe.derivative == "lora"
    assert recipe.train == TrainSettings()
    assert recipe.quantizer is recipe.evaluators is None


def test_a_recipe_survives_json_exactly(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, FULL))
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("document", "problem", "fix"),
    [
        ({"base": "micro", "derivatve": "lora"}, "unknown key 'derivatve'", "did you mean 'derivative'?"),
        ({"base": "micro", "zzz": 1}, "unknown key 'zzz'", "use one of: derivative, base"),
        ({"base": "m", "train": {"max_stepz": 1}}, "unknown key 'train.max_stepz'", "'max_steps'?"),
        ({"base": "m", "data": [{"path": "a", "tsk": "x"}]}, "unknown key 'data.0.tsk'", "'task'?"),
        ({"derivative": "lora"}, "'base' is missing", "add a line 'base: ...'"),
        ({"base": "m", "train": {"batch_size": 0}}, "train.batch_size", "correct train.batch_size"),
        ({"base": "m", "train": {"learning_rate": float("nan")}}, "learning_rate", "correct"),
        ({"base": "m", "train": {"max_steps": 1, "epochs": 1}}, "max_steps or epochs, not both", "train"),
        (
            {"base": "m", "data": [{"path": "a", "task": "a b"}]},
            "letters, digits, '-' and '_'",
            "data.0.task",
        ),
        ({"base": "m", "data": [{"path": "a", "task": ""}]}, "letters, digits, '-' and '_'", "data.0.task"),
        ({"base": "m", "data": [{"path": "a", "held_out": 1.5}]}, "or equal to 1", "data.0.held_out"),
        ({"base": "m", "quantizer": 4}, "quantizer", "correct quantizer"),
        ({"base": "m", "past": "one"}, "past is a list, not 'one'", "'past: [one]'"),
        ({"base": "m", "data": {"path": "a.jsonl"}}, "data is a list, not", "'data: [{path: a.jsonl}]'"),
        ({"base": "m", "data": {"path": Path("a.jsonl")}}, "data is a list, not", "put it in a list"),
        ({"base": "m", "data": None}, "data is a list, not None", "leave data out"),
        ({"base": "m", "data": ["a.jsonl"]}, "data.0 has no keys (got 'a.jsonl')", "path, task"),
        (["base"], "holds list, not a mapping", "derivative: lora"),
        (None, "holds NoneType, not a mapping", "base: micro"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_key(document: object, problem: str, fix: str) -> None:
    assert_refused(problem, fix, document)


def test_a_missing_file_comes_with_the_command_that_writes_one(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", write(tmp_path, "base: micro") / "below.yaml"):
        with pytest.raises(MissingFile) as caught:
            read_recipe(path)
        assert f"there is no recipe {path}" in caught.value.problem
        assert "edgelora recipe new" in caught.value.fix
        assert caught.value.exit_code == 4


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(RecipeError, match="cannot be read as text"):
            read_recipe(path)


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "\x07", "out: 2024-13-45", "a: !!python/object:os.system x"]
)
def test_a_file_that_is_no_yaml_is_refused_with_the_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path, text))
    assert "recipe.yaml is not valid YAML" in caught.value.problem
    assert caught.value.fix == "correct that line"


def test_changes_are_applied_before_validation() -> None:
    changes = [
        "train.seed=7",
        "quantizer.block_size=32",
        "adapter=dora",
        "data.0.task=other",
        "train.betas.1=0.5",
        "evaluators.0.samples=3",
        "out=runs/a=b",
    ]
    document = {
        "base": "micro",
        "quantizer": "nf4",
        "data": [{"path": "a.jsonl"}],
        "train": {"betas": [0.9, 0.9]},
        "evaluators": ["exact-match"],
    }
    recipe = make_recipe(document, changes)
    assert recipe.train.seed == 7
    assert recipe.quantizer and (recipe.quantizer.name, recipe.quantizer.options) == (
        "nf4",
        {"block_size": 32},
    )
    assert recipe.adapter and recipe.adapter.name == "dora"
    assert recipe.data[0].task == "other"
    assert recipe.train.betas == (0.9, 0.5)
    assert recipe.evaluators and recipe.evaluators[0].options == {"samples": 3}
    assert recipe.out == Path("runs/a=b")
    assert document["train"] == {"betas": [0.9, 0.9]}, "the caller's document is left alone"


def test_a_change_makes_the_sections_it_needs() -> None:
    recipe = make_recipe({"base": "micro", "quantizer": None}, ["quantizer.block_size=32", "train.seed=1"])
    assert recipe.quantizer and recipe.quantizer.options == {"block_size": 32}
    assert recipe.train.seed == 1


@pytest.mark.parametrize(
    ("change", "problem", "fix"),
    [
        ("train.seed", "has no '='", "--set train.seed=1"),
        ("=3", "has no '='", "--set train.seed=1"),
        ("base.size=3", "'base' is a plain value", "set base itself"),
        ("train.seed=[", "is not YAML", "quote the value"),
        ("out=2024-13-45", "is not YAML", "quote the value"),
        ("data.3.task=x", "'3' is not an index of a list of 1", "count from 0"),
        ("data.first.task=x", "'first' is not an index", "count from 0"),
        ("data.²=x", "'²' is not an index", "count from 0"),
        ("past.0.x=1", "0 is a plain value", "set 0 itself"),
        ("train.seeed=3", "unknown key 'train.seeed'", "did you mean 'seed'?"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(change: str, problem: str, fix: str) -> None:
    document = {"base": "micro", "data": [{"path": "a"}], "past": ["ns/a"]}
    assert_refused(problem, fix, document, change)


@given(st.text(max_size=30), st.text(max_size=10))
def test_any_change_is_applied_or_refused_by_name(key: str, value: str) -> None:
    try:
        make_recipe({"base": "micro", "data": [{"path": "a"}]}, [f"{key}={value}", f"data.{key}={value}"])
    except RecipeError as error:
        assert error.problem and error.fix


def test_a_recipe_cannot_be_changed_after_validation() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_recipe({"base": "micro"}).base = "other"  # type: ignore[misc]


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("base: micro\nderivative: lora\nderivative: qlora\n")
    with pytest.raises(RecipeError, match="the key 'derivative' is given twice"):
        read_recipe(path)


def test_a_tilde_in_out_is_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert make_recipe({"base": "micro", "out": "~/runs/first"}).out == Path("/home/ada/runs/first")


@pytest.mark.parametrize("value", ["peft:", " peft: "])
def test_a_name_that_is_not_whole_is_a_name(value):
    assert make_recipe({"base": "micro"}, [f"derivative={value}"]).derivative == "peft:"
    assert make_recipe({"base": "micro"}, [f"adapter={value}"]).adapter.name == "peft:"
