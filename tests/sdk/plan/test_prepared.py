"""A prepared base decides its quantizer; a recipe may leave it out, repeat it, and not contradict it."""

import pytest

from edgelora.errors import CombinationError, OptionsError, PluginMissing
from edgelora.manifest import Base, PartRef
from edgelora.manifest.base import BaseFile
from edgelora.plan import make_plan, plan_from_document
from edgelora.prepared import RECORD_NAME, PreparedBase, record_bytes
from edgelora.recipe import make_recipe
from edgelora.registry import Registry

DIGEST = "sha256:" + 64 * "a"
SOURCE = Base(repo="acme/m", architecture="LlamaForCausalLM", tensors_digest=DIGEST, config_digest=DIGEST)
REGISTRY = Registry.discover()


@pytest.fixture
def prepared(tmp_path):
    """A function that writes the record of a base in NF4 with blocks of 128."""

    def write(skip_modules=("up_proj",), **changes):
        part = {"name": "nf4", "plugin": "qlora", "distribution": "edgelora", "version": "0.1.0"}
        options = {"block_size": 128, "double_quantization": True, "compute_dtype": "auto"}
        record = PreparedBase(
            source=SOURCE,
            quantizer=PartRef(**{**part, "options": options, **changes}),
            skip_modules=skip_modules,
            dtype="BF16",
            form="own",
            files=(BaseFile(path="model-00001-of-00001.safetensors", size=3, sha256=64 * "b"),),
            tensors_digest=DIGEST,
        )
        (tmp_path / RECORD_NAME).write_bytes(record_bytes(record))
        return str(tmp_path)

    return write


def plan(base, **recipe):
    return make_plan(make_recipe({"base": base, **recipe}), REGISTRY)


@pytest.mark.parametrize("derivative", ["lora", "qlora", "irqlora"])
def test_a_recipe_without_a_quantizer_takes_that_of_its_base(prepared, derivative):
    made = plan(prepared(), derivative=derivative)
    quantizer = made.parts["quantizer"]
    assert (quantizer.plugin, quantizer.name, quantizer.options.block_size) == ("qlora", "nf4", 128)
    assert made.recipe.skip_modules == ("up_proj",)
    assert "(prepared: acme/m in nf4)" in made.describe()
    assert "block_size=128" in made.describe()
    assert plan_from_document(made.as_document(), REGISTRY) == made


@pytest.mark.parametrize(
    "quantizer", ["nf4", "qlora:nf4", {"name": "nf4", "block_size": 128}, {"double_quantization": True}]
)
def test_a_recipe_may_repeat_what_the_base_is(prepared, quantizer):
    made = plan(prepared(), quantizer=quantizer, skip_modules=["up_proj"])
    assert made.parts["quantizer"].options.block_size == 128


@pytest.mark.parametrize(
    "quantizer", [{"compute_dtype": "bfloat16"}, {"name": "nf4", "compute_dtype": "bfloat16"}]
)
def test_how_products_are_computed_may_differ(prepared, quantizer):
    options = plan(prepared(), quantizer=quantizer).parts["quantizer"].options
    assert (options.block_size, options.compute_dtype) == (128, "bfloat16")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"quantizer": "fp4"}, "and the recipe asks for fp4 (block_size 64, double_quantization true)"),
        ({"quantizer": "none"}, "and the recipe asks for none"),
        ({"quantizer": {"block_size": 64}}, "and the recipe asks for nf4 (block_size 64"),
        ({"quantizer": {"name": "nf4", "double_quantization": False}}, "double_quantization false"),
        (
            {"skip_modules": ["down_proj"]},
            "is prepared with up_proj left unquantized, and the recipe's skip_modules",
        ),
    ],
)
def test_a_recipe_that_contradicts_its_base_is_refused(prepared, recipe, words):
    with pytest.raises(CombinationError) as caught:
        plan(prepared(), **recipe)
    assert words in caught.value.problem
    assert "is prepared" in caught.value.problem
    assert "out of the recipe, or use the unquantized model as the base" in caught.value.fix


def test_skipping_nothing_in_words(prepared):
    with pytest.raises(CombinationError, match="is prepared with nothing left unquantized"):
        plan(prepared(skip_modules=()), skip_modules=["up_proj"])


def test_a_quantizer_that_is_not_installed_says_what_to_install(prepared):
    base = prepared(name="q3", plugin="acme", distribution="edgelora-acme", version="2.0")
    with pytest.raises(PluginMissing, match=r"quantizer 'acme:q3' of edgelora-acme 2.0 is needed") as caught:
        plan(base)
    assert "pip install 'edgelora-acme==2.0'" in caught.value.fix


def test_options_the_installed_quantizer_does_not_have_are_refused(prepared):
    with pytest.raises(OptionsError, match="there is no option 'levels'"):
        plan(prepared(options={"levels": 3}))
