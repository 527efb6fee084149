import pytest

from edgelora.engine.data.content import Completion, Conversation, Instruction, Message, Text
from edgelora.engine.data.render import Renderer, render_prompt
from edgelora.errors import DataError, ModelError

# Shapes of templates in the wild, reduced to what makes them hard.
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# Gemma: another role name, trimmed answers, no system turn, an end of turn that is not the end of sequence.
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ m['content'] | trim + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start>model\n' }}{% endif %}"
)
# Qwen 3: thoughts of answers before the last question are dropped, and the last answer gets an empty one.
QWEN_3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% if loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'].split('</think>')[-1].lstrip('\n') }}{% else %}{{ m['content'] }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# DeepSeek R1: the generation prompt opens a thought.
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant><think>\n' }}{% endif %}"
)
# GLM 4.5: an empty thought before every answer, and no mark after it.
GLM = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}"
    "{{ '\n<think></think>' }}{% endif %}{{ '\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Mistral: the system message stands before the last question.
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% set ns = namespace(last=0) %}{% for m in turns %}"
    "{% if m['role'] == 'user' %}{% set ns.last = loop.index %}{% endif %}{% endfor %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (system + '\n' if system and loop.index == ns.last else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)

TWO_TURNS = Conversation(
    (
        Message("user", "one?"),
        Message("assistant", "1"),
        Message("user", "two?"),
        Message("assistant", "2"),
    )
)


def learned(rendered):
    return [segment.text for segment in rendered.segments if segment.learned]


def whole(rendered):
    return "".join(segment.text for segment in rendered.segments)


def test_a_chat_template_renders_instructions(chat):
    rendered = Renderer(chat).render(Instruction("Larger?", "1 or 2", "2", "Be brief."), "a:1")
    assert rendered.prompt == "<|system|>\nBe brief.\n<|user|>\nLarger?\n1 or 2\n<|assistant|>\n"
    assert rendered.response == "2"
    assert [tuple(segment) for segment in rendered.segments] == [(rendered.prompt, False), ("2</s>", True)]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (LLAMA_2, [" 1 </s>", " 2 </s>"]),
        (GEMMA, ["1<end>", "2<end>"]),
        (QWEN_3, ["1<|im_end|>", "<think>\n\n</think>\n\n2<|im_end|>"]),
        (DEEPSEEK, ["1</s>", "2</s>"]),
        (GLM, ["\n<think></think>\n1", "\n<think></think>\n2"]),
        (MISTRAL, [" 1</s>", " 2</s>"]),
    ],
)
def test_every_answer_is_learned_to_the_end_of_its_turn(byte_tokenizer, template, expected):
    tokenizer = byte_tokenizer(template)
    rendered = Renderer(tokenizer).render(TWO_TURNS, "a:1")
    assert learned(rendered) == expected
    turns = [{"role": turn.role, "content": turn.content} for turn in TWO_TURNS.messages]
    assert tokenizer.apply_chat_template(turns, tokenize=False).rstrip() == whole(rendered)


@pytest.mark.parametrize("template", [LLAMA_2, GEMMA, QWEN_3, MISTRAL])
def test_what_is_not_learned_is_the_prompt_the_model_will_get(byte_tokenizer, template):
    tokenizer = byte_tokenizer(template)
    rendered = Renderer(tokenizer).render(Conversation(TWO_TURNS.messages[:2]), "a:1")
    assert rendered.segments[0].text == rendered.prompt == render_prompt(tokenizer, "one?")


def test_a_system_message_that_moves_does_not_make_questions_learned(byte_tokenizer):
    turns = (Message("system", "[INST] odd"), *TWO_TURNS.messages)
    rendered = Renderer(byte_tokenizer(MISTRAL)).render(Conversation(turns), "a:1")
    assert learned(rendered) == ["1</s>", " 2</s>"]
    assert whole(rendered) == "<s>[INST] one?[/INST] 1</s>[INST] [INST] odd\ntwo?[/INST] 2</s>"


def test_thoughts_a_template_drops_do_not_matter(byte_tokenizer):
    thought = Message("assistant", "<think>hm</think>\n1")
    turns = (TWO_TURNS.messages[0], thought, *TWO_TURNS.messages[2:])
    rendered = Renderer(byte_tokenizer(QWEN_3)).render(Conversation(turns), "a:1")
    assert learned(rendered)[0] == "1<|im_end|>"


def test_a_thought_the_generation_prompt_opens_is_not_learned_again(byte_tokenizer):
    turns = (Message("user", "q"), Message("assistant", "<think>\nhm</think>1"))
    rendered = Renderer(byte_tokenizer(DEEPSEEK)).render(Conversation(turns), "a:1")
    assert (rendered.prompt, learned(rendered)) == ("<s><user>q<assistant><think>\n", ["hm</think>1</s>"])


def test_an_answer_that_starts_like_the_generation_prompt_ends_is_whole(byte_tokenizer):
    turns = (Message("user", "q"), Message("assistant", "<this>"))
    rendered = Renderer(byte_tokenizer(DEEPSEEK)).render(Conversation(turns), "a:1")
    assert learned(rendered) == ["<this></s>"]


def test_an_answer_that_occurs_in_the_template_is_found_after_it(byte_tokenizer):
    turns = (Message("user", "think?"), Message("assistant", "think"))
    rendered = Renderer(byte_tokenizer(GLM)).render(Conversation(turns), "a:1")
    assert learned(rendered) == ["\n<think></think>\nthink"]
    assert rendered.response == "\n<think></think>\nthink"


def test_an_answer_that_repeats_its_question_is_found(chat):
    turns = (Message("user", "2"), Message("assistant", "2"), Message("user", "2"), Message("assistant", "2"))
    rendered = Renderer(chat).render(Conversation(turns), "a:1")
    assert learned(rendered) == ["2</s>", "2</s>"]
    assert whole(rendered).count("2") == 4


def test_an_answer_that_answers_nobody_is_context(chat, plain):
    turns = (Message("assistant", "Hello!"), *TWO_TURNS.messages)
    for tokenizer in (chat, plain):
        assert learned(Renderer(tokenizer).render(Conversation(turns), "a:1")) == ["1</s>", "2</s>"]


@pytest.mark.parametrize(
    "content",
    [
        Text(""),
        Completion("p", ""),
        Instruction("i", "", " \n"),
        Conversation((Message("user", "q"),)),
        Conversation((Message("user", "q"), Message("assistant", ""))),
        Conversation((Message("assistant", "a"),)),
    ],
)
def test_a_row_without_an_answer_teaches_nothing(chat, plain, content):
    for tokenizer in (chat, plain):
        assert not learned(Renderer(tokenizer).render(content, "a:1"))


def test_questions_nobody_answers_are_left_out(chat):
    rendered = Renderer(chat).render(Conversation((*TWO_TURNS.messages, Message("user", "three?"))), "a:1")
    assert "three" not in whole(rendered)


def test_the_alpaca_template_stands_in_for_a_chat_template(plain):
    rendered = Renderer(plain).render(Instruction("Larger?", "1 or 2", "2"), "a:1")
    assert rendered.prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nLarger?\n\n### Input:\n1 or 2\n\n### Response:\n"
    )
    assert rendered.response == "2"


def test_conversations_in_the_alpaca_template_repeat_its_blocks(plain):
    turns = (Message("system", "Be brief."), *TWO_TURNS.messages)
    rendered = Renderer(plain).render(Conversation(turns), "a:1")
    assert whole(rendered) == (
        "Be brief.\n\n### Instruction:\none?\n\n### Response:\n1</s>"
        "\n\n### Instruction:\ntwo?\n\n### Response:\n2</s>"
    )
    assert learned(rendered) == ["1</s>", "2</s>"]
    assert whole(rendered) == rendered.prompt + "2</s>"


def test_the_alpaca_prompt_is_the_one_of_training(plain):
    rendered = Renderer(plain).render(Instruction("Larger?", "", "2"), "a:1")
    assert render_prompt(plain, "Larger?") == rendered.prompt
    conversation = Instruction("Larger?", "", "2").as_conversation()
    assert Renderer(plain).render(conversation, "a:1").prompt == rendered.prompt


def test_completions_and_text_are_taken_verbatim(chat):
    renderer = Renderer(chat)
    assert whole(renderer.render(Completion("  p ", " c\n"), "a:1")) == "  p  c\n"
    assert learned(renderer.render(Text(" t\n"), "a:1")) == [" t\n"]


@pytest.mark.parametrize("content", [Text("t"), Completion("p", "c"), Instruction("i", "", "o"), TWO_TURNS])
def test_the_beginning_token_stands_there_once_where_the_tokenizer_wants_it(byte_tokenizer, content):
    for template in (None, LLAMA_2):
        text = whole(Renderer(byte_tokenizer(template, adds_bos=True)).render(content, "a:1"))
        assert text.startswith("<s>")
        assert text.count("<s>") == 1
    assert "<s>" not in whole(Renderer(byte_tokenizer()).render(content, "a:1"))


def test_a_conversation_the_template_refuses_is_named(byte_tokenizer):
    with pytest.raises(DataError) as caught:
        Renderer(byte_tokenizer(GEMMA)).render(
            Conversation((Message("system", "s"), *TWO_TURNS.messages)), "a.jsonl:4"
        )
    assert caught.value.problem == (
        "a.jsonl:4: the tokenizer's chat template refuses this conversation: System role not supported"
    )
    assert "no system turn" in caught.value.fix


def test_an_answer_the_template_rewrites_is_refused(byte_tokenizer):
    shouting = byte_tokenizer("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")
    with pytest.raises(DataError, match="a:1: the tokenizer's chat template changes turn 2 beyond") as caught:
        Renderer(shouting).render(Conversation((Message("user", "q"), Message("assistant", "a"))), "a:1")
    assert "the way the template prints it" in caught.value.fix


def test_a_tool_turn_needs_a_chat_template(plain):
    turns = (Message("user", "q"), Message("tool", "t"), Message("assistant", "a"))
    with pytest.raises(DataError, match="a:1: a turn is by a tool") as caught:
        Renderer(plain).render(Conversation(turns), "a:1")
    assert "has a chat template" in caught.value.fix


def test_a_tokenizer_without_an_end_token_is_refused(byte_tokenizer):
    with pytest.raises(ModelError, match="the tokenizer has no end-of-sequence token") as caught:
        Renderer(byte_tokenizer(eos_token=None, pad="<pad>"))
    assert caught.value.fix == "set eos_token in the base's tokenizer_config.json"
