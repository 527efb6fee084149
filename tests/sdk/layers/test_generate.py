"""Greedy answers do not depend on how prompts are batched."""

import pytest
import torch
from tiny_models import save_llama, save_tokenizer
from transformers import AutoModelForCausalLM

from edgelora.layers.generate import greedy


@pytest.fixture(scope="module")
def model_and_tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = save_tokenizer(folder)
    save_llama(folder)
    return AutoModelForCausalLM.from_pretrained(folder), tokenizer


def test_batched_answers_equal_single_ones(model_and_tokenizer):
    prompts = ["a", "a longer prompt", "b?", "", "more of them"]
    together = greedy(*model_and_tokenizer, prompts[:3], max_new_tokens=8)
    alone = [greedy(*model_and_tokenizer, [prompt], max_new_tokens=8)[0] for prompt in prompts[:3]]
    assert together == alone


def test_each_batch_is_announced_with_its_number_of_prompts(model_and_tokenizer):
    announced = []
    greedy(
        *model_and_tokenizer,
        ["a", "b", "c"],
        max_new_tokens=2,
        batch_size=2,
        before_batch=announced.append,
    )
    assert announced == [2, 1]


def test_the_head_reads_its_weight_once_for_all_rows_of_a_prompt(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    head, given = model.get_output_embeddings(), []
    watched = head.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    greedy(model, tokenizer, ["a", "bc", "d"], max_new_tokens=2)
    watched.remove()
    assert given[0].shape[:2] == (3, 1) and all(each.is_contiguous() for each in given)
    assert not head._forward_pre_hooks, "the model is left as it was"


def test_no_prompt_gives_no_answer(model_and_tokenizer):
    assert greedy(*model_and_tokenizer, [], max_new_tokens=8) == []


def test_mode_and_random_state_are_left_alone(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    model.train()
    state = torch.get_rng_state()
    greedy(model, tokenizer, ["a"], max_new_tokens=4)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
