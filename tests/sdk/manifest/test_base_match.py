"""A base is compared by what it computes, not by its name or its files."""

import pytest

from edgelora.errors import WrongBase
from edgelora.manifest import Base
from edgelora.manifest.base_match import check_base


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


BASE = Base(
    repo="acme/base",
    architecture="LlamaForCausalLM",
    tensors_digest=digest("1"),
    config_digest=digest("2"),
    config_semantic_digest=digest("3"),
    tokenizer_digest=digest("4"),
)


def other(**members: object) -> Base:
    return BASE.model_copy(update=members)


@pytest.mark.parametrize(
    "found",
    [
        BASE,
        other(repo="elsewhere", revision="a" * 40),
        other(config_digest=digest("9")),
        other(chat_template_digest=digest("9")),
    ],
)
def test_same_base_under_other_names_is_accepted(found: Base) -> None:
    check_base(BASE, found, "here")


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (other(tensors_digest=digest("9")), "weight set"),
        (other(tokenizer_digest=digest("9")), "tokenizer"),
        (other(tokenizer_digest=None), "tokenizer"),
        (other(config_semantic_digest=digest("9")), "configuration"),
        (other(config_semantic_digest=None), "configuration"),
    ],
)
def test_each_difference_alone_is_refused_by_name(found: Base, what: str) -> None:
    with pytest.raises(
        WrongBase, match=rf"trained on acme/base with {what} of digest .*; the {what} in here"
    ) as caught:
        check_base(BASE, found, "here")
    assert caught.value.fix == "pass the folder of acme/base as the base: --base FOLDER"


def test_configuration_without_a_semantic_digest_is_compared_by_its_bytes() -> None:
    wanted = other(config_semantic_digest=None)
    check_base(wanted, BASE, "here")
    with pytest.raises(WrongBase, match="configuration"):
        check_base(wanted, other(config_digest=digest("9")), "here")


def test_base_without_a_tokenizer_fits_any() -> None:
    check_base(other(tokenizer_digest=None), BASE, "here")
