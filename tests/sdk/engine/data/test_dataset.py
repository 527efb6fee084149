import json

import pytest

from edgelora.engine.data import load_dataset
from edgelora.errors import DataError, MissingFile
from edgelora.recipe import DataSource

SUFFIXES = [".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv"]


def learned(row, tokenizer):
    return tokenizer.decode([label for label in row.labels if label != -100])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_read_from_every_file_type(load, chat, named_row, suffix):
    name, row = named_row
    dataset = load([row, row], chat, name=f"train{suffix}")
    assert dataset.report.sources[0].format == name
    first = dataset.train[0]
    assert chat.decode(first.input_ids.tolist()).count("23,5 °C — ya 👍</s>") == 1
    assert "Suhu 23,5 °C 🌡 atau 23,15 °C?" in chat.decode(first.input_ids.tolist())
    if name == "text":
        assert (first.prompt, first.response) == (None, None)
    else:
        assert learned(first, chat) == "23,5 °C — ya 👍</s>"
        assert first.response == "23,5 °C — ya 👍"


@pytest.mark.parametrize(
    ("suffix", "origins"),
    [(".jsonl", ["1", "2"]), (".json", ["2", "6"]), (".csv", ["2", "3"]), (".parquet", ["1", "2"])],
)
def test_a_row_knows_where_it_came_from(load, chat, suffix, origins):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    dataset = load(rows, chat, name=f"train{suffix}")
    assert [row.origin for row in dataset.train] == [f"train{suffix}:{number}" for number in origins]


def test_the_tokens_of_the_prompt_start_the_row(load, chat, plain, named_row):
    _, row = named_row
    for tokenizer in (chat, plain):
        [loaded] = load([row], tokenizer).train
        if loaded.prompt is not None:
            ids = tokenizer(loaded.prompt, add_special_tokens=False)["input_ids"]
            assert loaded.input_ids[: len(ids)].tolist() == ids
            assert set(loaded.labels[: len(ids)]) == {-100}


def test_loss_is_on_every_turn_of_the_assistant(load, chat):
    turns = [("system", "s"), ("user", "u1"), ("assistant", "a1"), ("user", "u2"), ("assistant", "a2")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    [loaded] = load([row], chat).train
    assert learned(loaded, chat) == "a1</s>a2</s>"
    assert loaded.prompt.endswith("u2\n<|assistant|>\n")


def test_the_end_token_is_learned_though_it_is_the_pad_token(load, byte_tokenizer, alpaca_rows):
    tokenizer = byte_tokenizer(pad="</s>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    for row in load(alpaca_rows, tokenizer).train:
        assert row.labels[-1] == tokenizer.eos_token_id


def test_cut_and_skipped_rows_are_counted(load, chat):
    rows = [{"prompt": "p" * 10, "completion": "c" * length} for length in (3, 9, 10, 30)]
    rows += [{"prompt": "p" * 20, "completion": "c"}, {"prompt": "p", "completion": ""}]
    dataset = load(rows, chat, max_length=20)
    report = dataset.report.sources[0]
    # Ten tokens of prompt, nine of completion and the end token just fit.
    assert (report.rows, report.train, report.cut, report.skipped) == (6, 4, 2, 2)
    assert report.longest == 41
    assert [len(row.input_ids) for row in dataset.train] == [14, 20, 20, 20]
    assert [row.labels[-1] == chat.eos_token_id for row in dataset.train] == [True, True, False, False]
    assert dataset.report.lines() == [
        "train.jsonl: 6 rows (prompt-completion), 4 to train on, 0 held out, 2 cut to max_length, "
        "2 skipped with nothing to learn, longest 41 tokens"
    ]


def test_duplicates_are_reported_and_kept_in_training(load, chat):
    dataset = load([{"text": text} for text in "abacab"], chat)
    assert dataset.report.sources[0].duplicates == 3
    assert len(dataset.train) == 6
    assert "3 duplicates of earlier rows" in dataset.report.lines()[0]


def test_no_content_is_on_both_sides(load, chat, alpaca_rows):
    dataset = load(alpaca_rows * 3, chat, held_out=0.3)
    train, held_out = ({row.response for row in rows} for rows in (dataset.train, dataset.held_out))
    assert held_out
    assert not train & held_out
    assert len(train | held_out) == len(alpaca_rows)
    assert len(dataset.train) == 3 * len(train)
    assert len(dataset.held_out) == len(held_out)


def test_a_row_held_out_of_one_file_is_held_out_of_all(tmp_path, chat, alpaca_rows):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text("".join(json.dumps(row) + "\n" for row in alpaca_rows))
    chats = [
        {
            "messages": [
                {"role": "user", "content": row["instruction"]},
                {"role": "assistant", "content": row["output"]},
            ]
        }
        for row in alpaca_rows
    ]
    second.write_text("".join(json.dumps(row) + "\n" for row in chats))
    sources = [DataSource(path=first, task="one", held_out=0.2), DataSource(path=second, task="two")]
    dataset = load_dataset(sources, chat, max_length=512)
    held_out = {task: {row.response for row in dataset.held_out if row.task == task} for task in (0, 1)}
    assert held_out[0] == held_out[1]
    assert held_out[0] and not held_out[0] & {row.response for row in dataset.train}
    assert dataset.report.sources[1].duplicates == len(alpaca_rows)


def test_tasks_are_numbered_in_the_order_of_the_data(tmp_path, chat):
    sources = []
    for number, task in enumerate(("b", "a", "b")):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps({"text": f"row {number}"}))
        sources.append(DataSource(path=path, task=task))
    dataset = load_dataset(sources, chat, max_length=512)
    assert dataset.tasks == ("b", "a")
    assert [row.task for row in dataset.train] == [0, 1, 0]


def test_no_data_is_an_empty_dataset(chat):
    dataset = load_dataset([], chat, max_length=512)
    assert (dataset.train, dataset.held_out, dataset.tasks) == ([], [], ("main",))


def test_digests_follow_the_content(load, chat, alpaca_rows):
    one, same = (load(alpaca_rows, chat, held_out=0.2) for _ in range(2))
    other = load(alpaca_rows[:-1], chat, held_out=0.2)
    assert (one.train_digest, one.held_out_digest) == (same.train_digest, same.held_out_digest)
    assert (one.train_digest, one.held_out_digest) != (other.train_digest, other.held_out_digest)
    assert one.train_digest != one.held_out_digest


def test_files_of_one_name_are_told_apart(tmp_path, chat):
    sources = []
    for folder in ("x", "y"):
        path = tmp_path / folder / "a.jsonl"
        path.parent.mkdir()
        path.write_text(json.dumps({"text": folder * 3}))
        sources.append(DataSource(path=path))
    dataset = load_dataset(sources, chat, max_length=512)
    assert [row.origin for row in dataset.train] == ["x/a.jsonl:1", "y/a.jsonl:1"]


def test_a_bad_row_names_file_line_keys_and_nearest_format(load, chat):
    rows = [{"instruction": "i", "output": "o"}] * 16 + [{"instr": "i", "output": "o"}]
    with pytest.raises(DataError) as caught:
        load(rows, chat)
    assert caught.value.problem.startswith(
        "train.jsonl:17: keys ['instr', 'output'] fit no format; nearest is alpaca (missing 'instruction')"
    )
    assert caught.value.id == "data-invalid"
    assert caught.value.exit_code == 3


def test_a_given_format_wins_over_the_keys(load, chat):
    rows = [{"prompt": "p", "completion": "c", "text": "t"}]
    assert load(rows, chat).report.sources[0].format == "prompt-completion"
    assert load(rows, chat, format="text").report.sources[0].format == "text"


@pytest.mark.parametrize("content", [b"", b"\n\n  \n"])
def test_a_file_without_rows_is_refused(load, chat, content):
    with pytest.raises(DataError, match=r"train\.jsonl holds no rows") as caught:
        load(content, chat)
    assert "take it out of the recipe's data" in caught.value.fix


def test_nothing_left_to_train_on_is_refused(load, chat):
    with pytest.raises(DataError, match=r"no row is left to train on: train\.jsonl: 1 rows") as caught:
        load([{"prompt": "p" * 50, "completion": "c"}], chat, max_length=8)
    assert caught.value.fix == "raise train.max_length or lower held_out"


def test_a_missing_file_keeps_its_error(tmp_path, chat):
    with pytest.raises(MissingFile) as caught:
        load_dataset([DataSource(path=tmp_path / "none.csv")], chat, max_length=8)
    assert caught.value.exit_code == 4
