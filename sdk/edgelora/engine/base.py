"""Base models: found without a network, loaded with every linear quantized as its tensor is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import cached_file, logging

from edgelora import micro
from edgelora.bases import expanded, find_base, is_path, no_folder
from edgelora.engine.mapped import load_prepared, load_streamed
from edgelora.engine.quantizing import QuantizeOnRead
from edgelora.errors import BaseNotFound, ModelError, OfflineNotCached
from edgelora.manifest.base_identity import weights_files
from edgelora.manifest.tensors import MAX_BASE_HEADER, read_header
from edgelora.plan import Plan
from edgelora.prepared import prepared_base


def locate_base(base: str, revision: str | None = None) -> Path:
    """The folder of a base model.

    Args:
        base: ``micro``, a folder, a Hub id that was downloaded before, or the ``tensorsDigest`` of a base
            that came in a bundle.
        revision: Of a Hub id.

    Raises:
        BaseNotFound: It is none of these.
        OfflineNotCached: It is a Hub id, and its files are not on this machine.
    """
    if base == "micro":
        return micro.path()
    if base.startswith("sha256:"):
        return _brought_base(base)
    folder = expanded(base)
    if folder.is_dir():
        return folder.absolute()
    if folder.is_file():
        raise BaseNotFound(
            f"{base} is a file, and a base model is a folder",
            fix="pass the folder that holds the model's config.json and its weights",
        )
    where = f"{base!r} at revision {revision!r}" if revision else repr(base)
    if is_path(base):
        raise no_folder(base)
    if cached := _cached_config(base, revision):
        return cached.parent
    if "/" in base:
        raise OfflineNotCached(
            f"base model {where} is not in the Hub's cache on this machine",
            fix=f"download it once, where there is a network: hf download {base}",
        )
    raise BaseNotFound(
        f"base model {where} is not a folder and not in the Hub's cache on this machine",
        fix="pass a folder or OWNER/NAME, or use 'micro'",
    )


def _brought_base(tensors_digest: str) -> Path:
    place = find_base(tensors_digest)
    if place is None:
        raise BaseNotFound(
            f"no base model with the weights {tensors_digest} was brought to this machine",
            fix="import a bundle that holds it, or pass a folder",
        )
    return place


def _cached_config(name: str, revision: str | None) -> Path | None:
    try:
        found = cached_file(name, "config.json", revision=revision, local_files_only=True)
    except OSError:
        return None
    return None if found is None else Path(found)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in ``folder``.

    Raises:
        ModelError: There is none, or it needs code from the folder.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the tokenizer in {folder} cannot be loaded: {first_line(error)}",
            fix="add tokenizer.json and tokenizer_config.json of the base model",
        ) from error


def load_base(plan: Plan, device: torch.device | None = None) -> Any:
    """The frozen base of ``plan``, its linears made by the plan's quantizer.

    The model is built without memory; each tensor is read, quantized and dropped before the next one, so
    that the 16-bit model is never whole in memory. The output head and the recipe's ``skip_modules`` stay as
    they are. Of a prepared base, and under ``train.streamed``, nothing is read: on a CPU the weights stay in
    their files.

    Args:
        plan: Names the base, the quantizer, the dtype and the modules to skip.
        device: Where to load; `default_device` when left out.

    Raises:
        BaseNotFound: The recipe's base cannot be found.
        ModelError: The folder holds no model that transformers can load from safetensors.
        TensorFileError: A weights file is malformed.
        CombinationError: It is to be streamed, and quantized as well.
    """
    folder = locate_base(plan.recipe.base, plan.recipe.revision)
    device = device or default_device()
    dtype = resolve_dtype(plan.recipe.train.dtype, device)
    if record := prepared_base(folder):
        return load_prepared(folder, config_of(folder), record, plan, dtype=dtype, device=device)
    config = read_config(folder)
    if plan.recipe.train.streamed:
        return load_streamed(folder, config, plan, dtype, device)
    quantization = QuantizeOnRead(plan.build("quantizer"), plan.recipe.skip_modules)
    try:
        with no_progress_bar():
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                # As the base is stored, so that its codes do not depend on the dtype it is computed in.
                dtype="auto",
                quantization_config=quantization,
                device_map={"": str(device)},
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        for file in weights_files(folder) if isinstance(error, SafetensorError) else ():
            read_header(folder / file, max_header=MAX_BASE_HEADER)  # says which file is malformed, and how
        raise ModelError(
            f"{folder} cannot be loaded as a causal language model: {first_line(error)}",
            fix="pass a folder with config.json and model.safetensors (or its shards and index)",
        ) from error
    if quantization.failure is not None:
        raise quantization.failure
    quantization.put_into(model)
    # From here on it is a plain module: transformers must not take it for one of its own quantized models.
    model.hf_quantizer.remove_quantization_config(model)
    model.config._is_quantized = False
    # Parameters only: buffers such as rotary frequencies stay in float32 whatever the dtype.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model.requires_grad_(False).eval()


def default_device() -> torch.device:
    """The first GPU, where there is one and accelerate is not told to leave it alone, else the CPU."""
    on_gpu = torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")
    return torch.device("cuda" if on_gpu else "cpu")


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype a recipe's ``train.dtype`` means on ``device``."""
    if dtype == "auto":
        gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if gpu else torch.float32
    resolved: torch.dtype = getattr(torch, dtype)
    return resolved


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Without transformers' own bars: progress is told by the run's reporter."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def read_config(folder: Path) -> Any:
    """The configuration of an unquantized model.

    Raises:
        ModelError: transformers does not know it, or the weights are quantized.
    """
    config = config_of(folder)
    refuse_quantized(config, folder)
    return config


def refuse_quantized(config: Any, place: Path) -> None:
    """Refuse the configuration of weights that somebody else quantized.

    Raises:
        ModelError: It is one.
    """
    method = getattr(config, "quantization_config", None)
    if method is not None:
        raise ModelError(
            f"{place} holds weights that are already quantized ({method.get('quant_method', 'unknown')})",
            fix="pass the unquantized model; edgelora quantizes it while reading",
        )


def config_of(place: Path) -> Any:
    """The configuration in a folder, or in a file, as transformers reads it.

    Raises:
        ModelError: It has no sound one of an architecture that it knows.
    """
    try:
        return AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each configuration checks itself, in ways of its own
        file = place if place.is_file() else place / "config.json"
        raise ModelError(
            f"{file} is no configuration that transformers knows: {first_line(error)}",
            fix="pass the folder of a causal language model, or correct it there",
        ) from error


def first_line(error: BaseException) -> str:
    """Of its message, with what it announces; its class where it has none."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and lines[1:] else lines[0]
