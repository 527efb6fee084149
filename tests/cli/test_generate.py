"""Several adapters on one command line: names, rows of a file, and answers in one batch."""

import json
from pathlib import Path

import pytest
from tiny_models import save_llama, save_tokenizer, write_rows

from edgelora.recipe import make_recipe
from edgelora.registry import Registry
from edgelora.run import run


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two adapters over one tiny base, and one that tells two tasks apart."""
    folder = tmp_path_factory.mktemp("adapters")
    save_tokenizer(folder / "base")
    save_llama(folder / "base")
    settings = {"max_steps": 2, "batch_size": 4, "accumulation": 1, "learning_rate": 2e-2, "threads": 1}
    data = [
        {"path": str(write_rows(folder / f"{task}.jsonl", 8, seed=seed)), "task": task}
        for seed, task in enumerate(("first", "second"))
    ]
    made = {}
    for name, derivative, rows in (("a", "lora", data[:1]), ("b", "rslora", data[1:]), ("t", "mtlora", data)):
        document = {
            "derivative": derivative,
            "base": str(folder / "base"),
            "adapter": {"rank": 4},
            "data": rows,
        }
        out = {"out": str(folder / name), "train": settings, "evaluators": []}
        made[name] = str(run(make_recipe(document | out), Registry.discover()).folder)
    return made


@pytest.fixture
def ask(edgelora, adapters):
    """``edgelora generate`` on their base, with short answers."""
    base = str(Path(adapters["a"]).parents[1] / "base")
    return lambda *arguments: edgelora("generate", "--base", base, "--max-new-tokens", "6", *arguments)


def answers(ran):
    assert ran.exit_code == 0, ran.err
    return [(row["adapter"], row["answer"]) for row in ran.document["answers"]]


def test_each_named_adapter_answers_each_prompt(ask, adapters):
    named = [f"--adapter={name}={adapters[name]}" for name in ("a", "b")]
    ran = ask("--json", *named, "say x", "say xx")
    alone = {
        name: ask("--json", "--adapter", adapters[name], "say x", "say xx").document["answers"]
        for name in ("a", "b")
    }
    assert answers(ran) == [(name, alone[name][index]["answer"]) for index in (0, 1) for name in ("a", "b")]
    assert ran.document["adapters"] == {name: adapters[name] for name in ("a", "b")}
    assert [row["prompt"] for row in ran.document["answers"]] == ["say x", "say x", "say xx", "say xx"]


def test_rows_of_a_file_name_their_adapter(ask, adapters):
    lines = [{"prompt": "say x", "adapter": "b"}, {"prompt": "say x", "adapter": None, "id": 7}]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    named = [f"--adapter={name}={adapters[name]}" for name in ("a", "b")]
    ran = ask("--json", *named, "--rows", "rows.jsonl")
    assert [name for name, _ in answers(ran)] == ["b", None]
    told = ask(*named, "--rows", "rows.jsonl")
    assert told.out.startswith("b: ") and "\nbase: " in told.out


def test_one_adapter_is_named_once_for_each_task(ask, adapters):
    named = [f"--adapter={task}={adapters['t']}" for task in ("one", "two")]
    ran = ask("--json", *named, "--task", "one=first", "--task", "two=second", "say x")
    alone = [
        ask("--json", "--adapter", adapters["t"], "--task", task, "say x").document["answers"][0]["answer"]
        for task in ("first", "second")
    ]
    assert answers(ran) == [("one", alone[0]), ("two", alone[1])]


def test_a_folder_that_is_there_is_no_name(ask, adapters):
    Path("lr=0.1").symlink_to(Path(adapters["a"]).parents[1])
    relative = "lr=0.1/a/adapter"
    expected = ask("--json", "--adapter", adapters["a"], "say x").document["answers"]
    ran = ask("--json", "--adapter", relative, "say x")
    assert (ran.document["adapter"], ran.document["answers"]) == (relative, expected)
    assert answers(ask("--json", "--adapter", f"x={relative}", "say x"))[0][0] == "x"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--adapter", "x", "--adapter", "y", "hi"], "several adapters need names"),
        (["--adapter", "a=x", "--adapter", "y", "hi"], "write NAME=y"),
        (
            ["--adapter", "a=x", "--adapter", "a=y", "hi"],
            "two adapters are named a: write --adapter OTHER-NAME=y",
        ),
        (["--adapter", "a=x", "--task", "b=first", "hi"], "names no adapter"),
        (["--adapter", "a=x", "--task", "first", "hi"], "names no adapter"),
        (["--adapter", "x", "--task", "a", "--task", "b", "hi"], "several tasks need named adapters"),
        (["--adapter", "x", "--rows", "rows.jsonl"], "wants adapters with names"),
        (["--adapter", "a=x", "--rows", "rows.jsonl", "hi"], "instead of PROMPTs"),
        (["--task", "first", "hi"], "--task is of an adapter"),
    ],
)
def test_what_is_not_told_apart_is_a_usage_error(edgelora, arguments, words):
    ran = edgelora("generate", *arguments)
    assert ran.exit_code == 2 and words in ran.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no row"),
        ("{", "rows.jsonl:1 is not JSON"),
        ('{"prompt": "x"}', "rows.jsonl:1 is no object with a prompt and an adapter"),
        ('{"prompt": 1, "adapter": "a"}', "rows.jsonl:1 is no object with a prompt"),
        ('\n{"prompt": "x", "adapter": "c"}', "rows.jsonl:2 is for the adapter 'c', which is not loaded"),
        ('{"prompt": "x", "adapter": ["a"]}', "is for the adapter ['a'], which is not loaded"),
    ],
)
def test_a_row_that_is_none_is_named_with_its_line(edgelora, text, words):
    Path("rows.jsonl").write_text(text)
    ran = edgelora("generate", "--adapter", "a=x", "--rows", "rows.jsonl")
    assert ran.exit_code == 3 and words in ran.err


def test_a_file_of_rows_that_is_not_there_is_named(edgelora):
    ran = edgelora("generate", "--adapter", "a=x", "--rows", "rows.jsonl")
    assert ran.exit_code == 4 and "there is no file rows.jsonl" in ran.err
    Path("rows.jsonl").write_bytes(b"\xff")
    assert "not in UTF-8" in edgelora("generate", "--adapter", "a=x", "--rows", "rows.jsonl").err
