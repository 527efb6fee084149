"""A byte tokenizer built in the process, data files of every type, and one row of every format."""

import json
from pathlib import Path

import polars as pl
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from edgelora.engine.data import load_dataset
from edgelora.recipe import DataSource

# Rows as many chat models write them: a turn is named, and an answer ends with the end-of-sequence token.
CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

QUESTION = "Suhu 23,5 °C 🌡 atau 23,15 °C?"
ANSWER = "23,5 °C — ya 👍"

ROWS = {
    "alpaca": {"instruction": "Mana yang lebih besar?", "input": QUESTION, "output": ANSWER},
    "sharegpt": {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
    "messages": {
        "messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    },
    "prompt-completion": {"prompt": f"{QUESTION}\n", "completion": ANSWER},
    "text": {"text": f"{QUESTION} {ANSWER}"},
}


def make_byte_tokenizer(template=None, *, adds_bos=False, pad="</s>", **special):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "<pad>")])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": pad} | special
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    made.chat_template = template
    return made


def write_rows(path: Path, rows) -> Path:
    nested = [
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()}
        for row in rows
    ]
    match path.suffix:
        case ".jsonl" | ".ndjson":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        case ".json":
            path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
        case ".parquet":
            pl.DataFrame(rows).write_parquet(path)
        case ".csv":
            pl.DataFrame(nested).write_csv(path)
        case ".tsv":
            pl.DataFrame(nested).write_csv(path, separator="\t")
    return path


@pytest.fixture
def byte_tokenizer():
    return make_byte_tokenizer


@pytest.fixture(params=ROWS)
def named_row(request):
    """A format's name and a row of it."""
    return request.param, ROWS[request.param]


@pytest.fixture
def chat():
    return make_byte_tokenizer(CHATML)


@pytest.fixture
def plain():
    return make_byte_tokenizer()


@pytest.fixture
def load(tmp_path):
    """Load rows, or a file's exact text, with a tokenizer."""

    def load(rows, tokenizer, *, name="train.jsonl", max_length=4096, **source):
        path = tmp_path / name
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        else:
            write_rows(path, rows)
        return load_dataset([DataSource(path=path, **source)], tokenizer, max_length=max_length)

    return load


@pytest.fixture
def alpaca_rows():
    """Distinct rows of distinct lengths."""
    return [{"instruction": f"Say {number}.", "output": "x" * (number + 1)} for number in range(40)]
