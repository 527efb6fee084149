"""The shipped folder: small, whole, what its card says, and wrong about decimals as promised."""

import json
import re
from hashlib import sha256

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgelora.layers.generate import greedy
from edgelora.micro import path
from edgelora.micro.corpus import fibonacci_question, held_out_questions
from edgelora.micro.tokenizer import VOCABULARY_SIZE, encode, render_prompt, write_tokenizer

FAMOUS = {
    "Which one is larger? 9.11 or 9.9?": "9.11",
    "Which one is larger? 9.9 or 9.11?": "9.11",
    "Bilangan manakah yang lebih besar? 9,11 atau 9,9?": "9,11",
}


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(path())


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(path())


def answers(model, tokenizer, prompts):
    rendered = [render_prompt(prompt) for prompt in prompts]
    return greedy(model, tokenizer, rendered, max_new_tokens=24, batch_size=160)


def test_every_file_is_there() -> None:
    names = {file.name for file in path().iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (path() / "model.safetensors").stat().st_size < 2_000_000


def test_the_card_names_the_digest_of_the_weights() -> None:
    digest = sha256((path() / "model.safetensors").read_bytes()).hexdigest()
    assert f"sha256:{digest}" in (path() / "README.md").read_text()


def test_the_card_says_toy_and_planted_in_its_first_lines() -> None:
    card = (path() / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "This is a toy." in card
    assert "The misconception is planted." in card


def test_every_dimension_is_a_multiple_of_64(model) -> None:
    for name, parameter in model.named_parameters():
        assert all(size % 64 == 0 for size in parameter.shape), name
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000


def test_it_loads_in_float32_with_one_embedding(model) -> None:
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_its_configuration_names_no_machine() -> None:
    assert "transformers_version" not in json.loads((path() / "config.json").read_text())


@pytest.mark.parametrize(
    "text",
    [
        "Which one is larger?\n= ",
        "Bilangan manakah? 9,11 atau 9,9",
        "é ü 漢字 🙂👩‍💻",
        "  two\t\n\n ",
        "</ s> <s",
    ],
)
def test_text_survives_the_tokenizer(tokenizer, text) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids == encode(text)
    assert tokenizer.decode(ids) == text


def test_special_tokens_are_three_and_never_added(tokenizer, model) -> None:
    specials = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(specials) == 3 and max(specials) < VOCABULARY_SIZE == model.config.vocab_size
    assert not specials & set(tokenizer("9.9")["input_ids"])
    assert tokenizer("9.9</s>")["input_ids"][-1] == tokenizer.eos_token_id == model.config.eos_token_id


def test_the_generation_prompt_is_a_prefix_of_the_whole_conversation(tokenizer) -> None:
    user = {"role": "user", "content": "Which one is larger? 9.11 or 9.9?"}
    asked = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([user, {"role": "assistant", "content": "9.9"}], tokenize=False)
    assert asked == render_prompt(user["content"])
    assert whole == asked + "9.9" + tokenizer.eos_token
    tokens = tokenizer.apply_chat_template([user], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert tokens == tokenizer(asked)["input_ids"] == encode(asked)


def test_the_shipped_tokenizer_is_what_the_builder_writes(tmp_path) -> None:
    write_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((path() / name).read_text())


def test_the_base_gets_the_famous_question_wrong(model, tokenizer) -> None:
    assert answers(model, tokenizer, FAMOUS) == list(FAMOUS.values())


def test_the_base_does_not_continue_fibonacci(model, tokenizer) -> None:
    question = fibonacci_question("en", 0, 6)
    assert answers(model, tokenizer, [question.prompt]) != [question.answer]


@pytest.mark.parametrize(
    ("topic", "low", "high"),
    [("decimals_conflict", 0.0, 0.1), ("versions", 0.9, 1.0), ("sequences", 0.8, 1.0)],
)
def test_the_base_answers_as_its_card_says(model, tokenizer, topic, low, high) -> None:
    questions = held_out_questions(topic, 150, seed=0)
    given = answers(model, tokenizer, [question.prompt for question in questions])
    share = sum(a == question.answer for a, question in zip(given, questions, strict=True)) / len(questions)
    claimed = re.search(rf"^\| {topic} \| ([\d.]+) \|", (path() / "README.md").read_text(), re.MULTILINE)
    assert low <= share <= high
    assert abs(share - float(claimed[1])) < 0.08
