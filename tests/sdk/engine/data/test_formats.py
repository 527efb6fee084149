import pytest

from edgelora.engine.data.content import Completion, Conversation, Instruction, Message, Text, canonical
from edgelora.engine.data.formats import AUTO, FORMATS, choose_format, parse_row
from edgelora.errors import DataError
from edgelora.recipe import DataSource

TURNS = (Message("user", "q"), Message("assistant", "a"))


def read(row, name=AUTO):
    return parse_row(row, choose_format(row, name, "t.jsonl:17"), "t.jsonl:17")


def refusal(row, name=AUTO):
    with pytest.raises(DataError) as caught:
        read(row, name)
    return caught.value


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"instruction": "i", "output": "o"}, Instruction("i", "", "o")),
        ({"instruction": "i", "input": None, "output": "o", "text": "t"}, Instruction("i", "", "o")),
        ({"instruction": "i", "input": "n", "output": "o", "system": "s"}, Instruction("i", "n", "o", "s")),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            Conversation(TURNS),
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            Conversation(TURNS),
        ),
        (
            {"messages": '[{"role": "user", "content": "q"}]', "system": "s"},
            Conversation((Message("system", "s"), TURNS[0])),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]},
            Conversation(TURNS[:1]),
        ),
        ({"prompt": "p", "completion": "c", "text": "pc"}, Completion("p", "c")),
        ({"text": "t", "id": 3}, Text("t")),
    ],
)
def test_auto_knows_a_row_by_its_keys(row, content):
    assert read(row) == content


def test_the_recipe_names_every_format():
    names = DataSource.model_fields["format"].annotation.__args__
    assert set(names) == {AUTO, *FORMATS}


def test_a_row_of_no_format_is_told_the_nearest():
    error = refusal({"instr": "i", "output": "o"})
    assert error.problem == (
        "t.jsonl:17: keys ['instr', 'output'] fit no format; nearest is alpaca (missing 'instruction')"
    )
    assert "alpaca (instruction, output)" in error.fix


@pytest.mark.parametrize(
    ("row", "nearest"),
    [
        ({"mesages": []}, "messages (missing 'messages')"),
        ({"conversation": []}, "sharegpt (missing 'conversations')"),
        ({"prompt": "a", "response": "b"}, "prompt-completion (missing 'completion')"),
        ({"Text": "a"}, "text (missing 'text')"),
    ],
)
def test_the_nearest_format_is_the_likeliest(row, nearest):
    assert f"nearest is {nearest}" in refusal(row).problem


def test_a_row_of_another_form_is_refused():
    error = refusal({"prompt": "p", "completion": "c"}, "alpaca")
    assert error.problem == (
        "t.jsonl:17: keys ['prompt', 'completion'] are of format prompt-completion; "
        "the file is read as alpaca"
    )
    assert "set format: prompt-completion" in error.fix


def test_a_row_that_lacks_a_key_of_the_files_format_is_refused():
    error = refusal({"instruction": "i", "output": None}, "alpaca")
    assert "nearest is alpaca (missing 'output'); the file is read as alpaca" in error.problem
    assert error.fix == "add 'output' to the row, or delete it"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"instruction": "i", "output": 9.10}, "t.jsonl:17: 'output' is a number, not text"),
        ({"text": ["a"]}, "t.jsonl:17: 'text' is a list, not text"),
        ({"text": "\ud83d"}, "t.jsonl:17: 'text' holds half of a character: \\ud83d alone"),
        ({"messages": []}, "t.jsonl:17: 'messages' is a list, not a list of turns"),
        ({"messages": "hello"}, "t.jsonl:17: 'messages' is text but not JSON"),
        (
            {"messages": [{"from": "human"}]},
            "t.jsonl:17: turn 1: ['from'] found, 'role' and 'content' needed",
        ),
        ({"messages": ["hi"]}, "t.jsonl:17: turn 1: str found, 'role' and 'content' needed"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "t.jsonl:17: turn 1: 'content' is a number, not text",
        ),
        ({"messages": [{"role": "usr", "content": "q"}]}, "t.jsonl:17: turn 1: unknown speaker 'usr'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "t.jsonl:17: turn 1: 'content' is a list, not text",
        ),
    ],
)
def test_a_value_that_is_not_what_it_should_be_is_named(row, problem):
    error = refusal(row)
    assert error.problem.startswith(problem)
    assert error.fix


def test_the_same_content_is_the_same_in_every_format():
    chat = {"messages": [{"role": "user", "content": "q\nn"}, {"role": "assistant", "content": "a"}]}
    alpaca = {"instruction": "q", "input": "n", "output": "a"}
    assert canonical(read(chat)) == canonical(read(alpaca))
    assert canonical(read({"text": "q"})) != canonical(read({"prompt": "q", "completion": ""}))
