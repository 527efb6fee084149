"""The recipe: a user's YAML file, read and validated; nothing is resolved here."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from edgelora.about import About
from edgelora.errors import MissingFile, RecipeError
from edgelora.recipe_changes import apply_change
from edgelora.sizes import parse_size
from edgelora.strict_yaml import NotYaml, read_yaml


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _is_task_name(name: str) -> str:
    if not (name.isascii() and name.replace("-", "").replace("_", "").isalnum()):
        raise ValueError("a task name is made of letters, digits, '-' and '_'")
    return name


TaskName = Annotated[str, AfterValidator(_is_task_name)]
Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=str | int)]
Format = Literal["auto", "alpaca", "sharegpt", "messages", "prompt-completion", "text"]


class PartChoice(BaseModel):
    """A part by name, with options: ``nf4`` or ``{name: nf4, block_size: 64}``."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str | None = None
    """None keeps the derivative's part and overrides some of its options."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class DataSource(_Section):
    """One file of training rows."""

    path: Path
    """JSONL, JSON, parquet or CSV; relative paths start at the recipe's folder."""
    task: TaskName = "main"
    """What the rows are for; files of one name are one task."""
    format: Format = "auto"
    held_out: Annotated[float, Field(ge=0, le=1)] = 0.0
    """About this fraction of distinct rows is kept out of training, chosen by a hash of their content. 1: all
    of them, such as rows of an earlier task that are only measured."""


class TrainSettings(_Section):
    """How to train."""

    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps. Either this or ``epochs``; one epoch when neither is given."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 2
    """Rows per micro-batch and process."""
    accumulation: Annotated[int, Field(ge=1)] = 4
    """Micro-batches per optimizer step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Fraction of the steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw", "paged-adamw-8bit"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = 1.0
    max_length: Annotated[int, Field(ge=2)] = 2048
    """Tokens per row; longer rows are cut and counted."""
    packing: bool = False
    """Rows of a task share sequences of at most ``max_length`` tokens, ``batch_size`` of them at a time. The
    rows of a step, and what it computes, stay the same."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 3407
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of unquantized weights and activations. ``auto``: bfloat16 on a GPU that has it, else float32."""
    adapter_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the matrices that learn; vectors and scalars stay in float32."""
    gradient_checkpointing: bool = False
    streamed: bool = False
    """Keep only two blocks of the base in memory, and read the others from its files as they are needed.
    Implies ``gradient_checkpointing``; a quantized base must be prepared first."""
    fused: bool = True
    """Layers that add a low-rank product compute it in the form that keeps least in memory; false runs each
    layer's own forward."""
    loss_rows: Annotated[int, Field(ge=1)] = 128
    """Labelled tokens whose logits exist at the same time."""
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps between evaluations; 0 evaluates at the end only."""
    evaluate_base: bool = False
    """Measure the bare base first, with the same evaluators."""
    save_every: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps between checkpoints; 0 picks a tenth of the run, at least 10 steps."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    tensorboard: bool = False

    @property
    def is_checkpointed(self) -> bool:
        """Whether blocks are computed again in the backward pass; streamed, it needs them one by one too."""
        return self.gradient_checkpointing or self.streamed

    @model_validator(mode="after")
    def _one_length(self) -> TrainSettings:
        if self.max_steps is not None and self.epochs is not None:
            raise ValueError("give max_steps or epochs, not both")
        return self


class Recipe(_Section):
    """One fine-tuning job: a derivative, a base, data, and where the result goes."""

    derivative: str = "lora"
    """A published method, by name: `edgelora plugins list` shows those installed."""
    base: str
    """A folder, a cached Hub id, or ``micro``."""
    revision: str | None = None
    """Of a Hub id."""
    quantizer: PartChoice | None = None
    """How the base is kept; by default the derivative's. A name, or ``{name, options}``."""
    adapter: PartChoice | None = None
    """What learns, with rank, alpha and targets; by default the derivative's."""
    rank_scheduler: PartChoice | None = None
    """What steers ranks while training; by default the derivative's, or ``constant``."""
    loss_combiner: PartChoice | None = None
    """How the losses of tasks become one; by default the derivative's, or ``sum``."""
    evaluators: tuple[PartChoice, ...] | None = None
    """What is measured at the end; by default the derivative's, or ``[loss]``."""
    data: tuple[DataSource, ...] = ()
    """The files to train on. Rows of all of them share batches."""
    train: TrainSettings = TrainSettings()
    """How to train."""
    about: About = About()
    past: tuple[str, ...] = ()
    """Adapters that came before, oldest first: references, or folders relative to the working directory.
    Their changes stay in force, frozen, beside what is learned now. What one of them went on from it has."""
    skip_modules: tuple[str, ...] = ()
    """Linears left unquantized, by name or suffix, besides the output head."""
    memory_budget: Size | None = None
    """Most memory training may take, such as ``2GiB`` or ``8GB``: of the process on a CPU, else of the GPU.
    The base is then kept resident, with checkpoints or streamed, with as many ``loss_rows`` as fit."""
    out: Path = Path("runs/first")
    """Where checkpoints and the adapter are written; relative to the working directory."""


def read_recipe(path: Path, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe file, apply ``--set`` changes such as ``train.seed=1``, and validate it.

    Data paths are made absolute, starting at the recipe's folder.

    Raises:
        MissingFile: There is no such file.
        RecipeError: It is not YAML, a key is unknown, or a value is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(f"there is no recipe {path}", fix="write one with: edgelora recipe new") from error
    except (UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path} cannot be read as text: {error}", fix="pass a YAML file") from error
    try:
        document = read_yaml(text)
    except NotYaml as error:
        raise RecipeError(f"{path} is not valid YAML: {error}", fix="correct that line") from error
    return make_recipe(document, changes, where=str(path), folder=path.parent)


def make_recipe(
    document: Any, changes: Iterable[str] = (), *, where: str = "the recipe", folder: Path = Path()
) -> Recipe:
    """Validate a recipe given as nested dictionaries, as YAML would give them.

    Args:
        document: The recipe.
        changes: ``key.sub=value`` assignments, the values in YAML.
        where: How errors name the recipe.
        folder: Where relative data paths start.

    Raises:
        RecipeError: A key is unknown or a value is wrong.
    """
    if not isinstance(document, Mapping):
        raise RecipeError(
            f"{where} holds {type(document).__name__}, not a mapping of keys",
            fix="start it with lines such as 'derivative: lora' and 'base: micro'",
        )
    document = copy.deepcopy(dict(document))
    for change in changes:
        apply_change(document, change)
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        problem, fix = _explain(error, where)
        raise RecipeError(problem, fix=fix) from error
    sources = tuple(
        source.model_copy(update={"path": (folder / source.path.expanduser()).absolute()})
        for source in recipe.data
    )
    return recipe.model_copy(update={"data": sources, "out": recipe.out.expanduser()})


_SECTIONS: dict[str, type[BaseModel]] = {"about": About, "data": DataSource, "train": TrainSettings}


def _explain(error: ValidationError, where: str) -> tuple[str, str]:
    first = error.errors()[0]
    path = ".".join(str(step) for step in first["loc"])
    if first["type"] == "extra_forbidden":
        return (
            f"{where}: unknown key {path!r}",
            _nearest(str(first["loc"][-1]), first["loc"][:-1]),
        )
    if first["type"] == "missing":
        return f"{where}: {path!r} is missing", f"add a line '{path}: ...'"
    given = first["input"]
    if first["type"] == "tuple_type":
        return f"{where}: {path} is a list, not {given!r}", _as_list(path, given)
    if first["type"] == "model_type" and (section := _SECTIONS.get(str(first["loc"][0]))):
        keys = ", ".join(section.model_fields)
        return f"{where}: {path} has no keys (got {given!r})", f"write some of them: {keys}"
    # What a validator of ours says is a sentence already; pydantic puts "Value error, " before it.
    said = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    return f"{where}: {path or 'the recipe'}: {said} (got {given!r})", f"correct {path}"


def _as_list(path: str, given: Any) -> str:
    if given is None:
        return f"leave {path} out, or write an empty list: '{path}: []'"
    try:
        listed = yaml.safe_dump([given], default_flow_style=True, width=1000).strip()
    except yaml.YAMLError:  # a program may give what no YAML file holds, such as a Path
        return f"put it in a list, as what {path} has one of"
    return f"put it in brackets: '{path}: {listed}'"


def _nearest(key: str, parents: tuple[Any, ...]) -> str:
    section = _SECTIONS.get(str(parents[0]), Recipe) if parents else Recipe
    near = difflib.get_close_matches(key, section.model_fields, n=1)
    known = ", ".join(section.model_fields)
    return f"did you mean {near[0]!r}?" if near else f"use one of: {known}"
