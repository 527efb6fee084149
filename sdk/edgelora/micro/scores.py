"""What the micro base answers, measured for its card. Heavy: imports torch and transformers."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from edgelora.layers.generate import greedy
from edgelora.micro.corpus import Question, fibonacci_questions, held_out_questions
from edgelora.micro.tokenizer import render_prompt

TOPICS = ("decimals_conflict", "decimals_agree", "versions", "sequences", "integers", "readings")
SAMPLES = 500
MAX_NEW_TOKENS = 32


def score_base(folder: Path) -> dict[str, tuple[float, int]]:
    """Exact match and number of questions by topic; all but Fibonacci on held-out pairs."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    questions = [question for topic in TOPICS for question in held_out_questions(topic, SAMPLES, seed=0)]
    questions += fibonacci_questions()
    prompts = [render_prompt(question.prompt) for question in questions]
    answers = greedy(model, tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS, batch_size=256)
    return _share_right(questions, answers)


def _share_right(questions: list[Question], answers: list[str]) -> dict[str, tuple[float, int]]:
    by_topic: dict[str, list[bool]] = {}
    for question, answer in zip(questions, answers, strict=True):
        by_topic.setdefault(question.topic, []).append(answer == question.answer)
    return {topic: (sum(right) / len(right), len(right)) for topic, right in by_topic.items()}
