import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from edgelora.engine.data.encode import Encoder
from edgelora.engine.data.segments import Rendered, Segment

PIECES = ["▁", "a", "b", "\n", "▁a", "▁b", "\n\n", "ab", "▁ab"]


def word_tokenizer(scheme):
    """A tokenizer of pieces, which puts a space before a text unless ``scheme`` is "never"."""
    merges = [("▁", "a"), ("▁", "b"), ("\n", "\n"), ("a", "b"), ("▁a", "b")]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(PIECES)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")


def encode(tokenizer, *segments):
    [encoded] = Encoder(tokenizer).encode([Rendered(tuple(Segment(*segment) for segment in segments))])
    return encoded


@pytest.mark.parametrize("scheme", ["never", "always", "first"])
def test_the_tokens_of_a_prompt_start_the_row(scheme):
    tokenizer = word_tokenizer(scheme)
    for prompt, response in (("a\n", "\nb"), ("a ", " b"), ("a", "b"), ("a\n", "b")):
        encoded = encode(tokenizer, (prompt, False), (response, True))
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert encoded.input_ids[: len(ids)].tolist() == ids
        assert set(encoded.labels[: len(ids)]) == {-100}
        assert -100 not in encoded.labels[len(ids) :]


@pytest.mark.parametrize("scheme", ["never", "always", "first"])
def test_no_space_appears_between_segments(scheme):
    tokenizer = word_tokenizer(scheme)
    encoded = encode(tokenizer, ("a\n", False), ("b", True), ("\na\n", False), ("ab", True))
    pieces = "".join(tokenizer.convert_ids_to_tokens(encoded.input_ids.tolist()))
    assert pieces.removeprefix("▁") == "a\nb\na\nab</s>"


def test_the_end_token_is_learned_and_stands_there_once(plain):
    for response in ("yes", "yes</s>"):
        encoded = encode(plain, ("q", False), (response, True))
        assert encoded.labels[-1] == encoded.input_ids[-1] == plain.eos_token_id
        assert encoded.input_ids.tolist().count(plain.eos_token_id) == 1


def test_the_first_token_is_never_learned(plain):
    encoded = encode(plain, ("", False), ("abc", True))
    assert encoded.labels[0] == -100
    assert encoded.labels[1:] == encoded.input_ids[1:]


def test_nothing_encodes_to_nothing(plain):
    assert len(encode(plain).input_ids) == 0


def test_characters_of_several_bytes_keep_their_border(plain):
    encoded = encode(plain, ("🌡", False), ("👍°", True))
    assert plain.decode([label for label in encoded.labels if label != -100]) == "👍°</s>"
