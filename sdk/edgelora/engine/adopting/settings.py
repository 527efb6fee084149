"""Which settings of a PEFT configuration change what an adapter computes, and which of them are understood.

A setting nobody here knows could change it, so it is refused unless it is off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelora.engine.adopting.patterns import is_understood
from edgelora.errors import NotAdoptable

_NO_LAYER = "edgelora has no layer that computes it, and no low-rank product equals it"
REASONS = {
    "PROMPT_TUNING": "it puts trained tokens before the prompt and changes no layer",
    "MULTITASK_PROMPT_TUNING": "it puts trained tokens before the prompt and changes no layer",
    "P_TUNING": "it puts trained tokens before the prompt and changes no layer",
    "CPT": "it puts trained tokens before the prompt and changes no layer",
    "PREFIX_TUNING": "it puts trained keys and values before those of the prompt and changes no layer",
    "CARTRIDGE": "it puts trained keys and values before those of the prompt and changes no layer",
    "ADAPTION_PROMPT": "it adds attention to a trained prompt",
    "IA3": "it scales activations, which is a change of full rank",
    "HIRA": "its change is a product with the base's weight, of full rank",
    "OFT": "it turns the base's weight, a change of full rank",
    "BOFT": "it turns the base's weight, a change of full rank",
    "HRA": "it reflects the base's weight, a change of full rank",
    "LN_TUNING": "it changes norms, not linears",
    "TRAINABLE_TOKENS": "it changes embeddings, not linears",
    "XLORA": "it mixes several adapters by a network of its own",
    "POLY": "it mixes several adapters by task",
}
"""Why an adapter of a kind cannot be adopted."""

_WITHOUT_WEIGHTS = {
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE", "ADAPTION_PROMPT",
}  # fmt: skip

# What a configuration says of the adapter's making, its place, or of loading: nothing of what it computes.
# PEFT corrects fan_in_fan_out by what each linear of the base is.
_OF_NO_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "beta1", "beta2", "d_initial", "decompose_both",
    "decompose_factor", "deltaT", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "init_weights", "layers_pattern", "layers_to_transform", "lora_dropout",
    "megatron_core", "module_dropout", "orth_reg_weight", "peft_type", "peft_version", "projection_prng_key",
    "qalora_group_size", "rank_dropout", "rank_dropout_scale", "revision", "runtime_config",
    "save_projection", "target_modules", "target_r", "task_type", "tfinal", "tinit", "total_step",
    "vera_dropout",
}  # fmt: skip
_UNDERSTOOD = {
    "LORA": {
        "alpha_pattern",
        "init_lora_weights",
        "lora_alpha",
        "r",
        "rank_pattern",
        "use_dora",
        "use_rslora",
    },
    "ADALORA": {"init_lora_weights", "init_r", "lora_alpha", "r", "rank_pattern"},
    "LOHA": {"alpha", "alpha_pattern", "r", "rank_pattern"},
    "LOKR": {"alpha", "alpha_pattern", "r", "rank_pattern"},
    "VERA": {"r"},
}
_STARTS = {True, False, "gaussian", "orthogonal", "eva", "olora", "pissa"}
"""Ways to start whose trained adapter means the same beside the untouched base, or can be made to."""
_ALPHAS = {"LORA": ("lora_alpha",), "ADALORA": ("lora_alpha",), "LOHA": ("alpha",), "LOKR": ("alpha",)}
_RANKS = {"ADALORA": ("init_r",), "LOHA": ("r",), "LOKR": ("r",)}
_PATTERNS = {
    "LORA": ("alpha_pattern",),
    "LOHA": ("alpha_pattern", "rank_pattern"),
    "LOKR": ("alpha_pattern", "rank_pattern"),
}
"""What the scaling is computed from. Ranks that only say how a tensor is shaped are not looked at."""
_MAX_PATTERNS = 4096
_LARGEST = 2**53


def check_settings(kind: str, config: Mapping[str, Any]) -> None:
    """Refuse an adapter that edgelora would compute differently, or cannot compute at all.

    Raises:
        NotAdoptable: With the reason.
    """
    if kind not in _UNDERSTOOD:
        raise refused(kind, REASONS.get(kind, _NO_LAYER))
    if config.get("modules_to_save"):
        raise refused(kind, f"modules_to_save replaces {_names(config['modules_to_save'])} as a whole")
    if config.get("bias") not in (None, "none"):
        raise refused(kind, f"bias={shown(repr(config['bias']))} changes biases")
    known = _UNDERSTOOD[kind] | _OF_NO_EFFECT | {"bias", "modules_to_save"}
    for setting, value in sorted(config.items()):
        # By value: {} and False are how PEFT says that something is off.
        if setting not in known and value not in (None, False, {}, []):
            raise refused(kind, f"its setting {shown(setting)}={shown(value)} changes what it computes")
    _check_values(kind, config)
    start = config.get("init_lora_weights", True)
    if isinstance(start, str):
        start = start.lower()
    if kind == "LORA" and (not isinstance(start, bool | str) or start not in _STARTS):
        raise refused(
            kind,
            f"it was started with {str(start)[:40]!r}, which may change the base itself",
            fix="save it again with PEFT and path_initial_model_for_weight_conversion: it is plain LoRA then",
        )


def refused(kind: str, reason: str, *, fix: str | None = None) -> NotAdoptable:
    """The error for an adapter that cannot be adopted."""
    if fix is None:
        fix = (
            "use it with PEFT: what it adds are no weights that could be merged"
            if kind in _WITHOUT_WEIGHTS
            else "merge it into its base with PEFT (merge_and_unload) and use the result as a base model"
        )
    return NotAdoptable(f"this adapter of PEFT's type {kind} cannot be adopted: {reason}", fix=fix)


def shown(value: Any) -> str:
    """The beginning of a foreign value, so that it cannot write more than a line of the message."""
    text = str(value)[:60]
    return text if text.isprintable() else ascii(text)


def _check_values(kind: str, config: Mapping[str, Any]) -> None:
    """Refuse a setting of another type than PEFT's, before anything is computed from it."""
    for setting in ("use_rslora", "use_dora"):
        if not isinstance(config.get(setting), bool | None):
            raise _malformed(kind, setting, config[setting])
    for setting in _ALPHAS.get(kind, ()):
        _check_number(kind, setting, config.get(setting, 8))
    for setting in _RANKS.get(kind, ()):
        _check_rank(kind, setting, config.get(setting, 8))
    for setting in _PATTERNS.get(kind, ()):
        _check_pattern(kind, setting, config.get(setting))


def _check_pattern(kind: str, setting: str, pattern: Any) -> None:
    if not isinstance(pattern, dict | None) or len(pattern or ()) > _MAX_PATTERNS:
        raise _malformed(kind, setting, pattern)
    check = _check_rank if setting == "rank_pattern" else _check_number
    for key, value in (pattern or {}).items():
        if not is_understood(key):
            raise refused(
                kind,
                f"the key {shown(key)} of its {setting} is an expression, and foreign ones are not run",
                fix=f"write the names of the modules it means into {setting} of its configuration",
            )
        check(kind, f"{setting}[{shown(key)}]", value)


def _check_number(kind: str, setting: str, value: Any) -> None:
    # NaN and infinity, which Python's JSON takes, are not within it either.
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= _LARGEST:
        raise _malformed(kind, setting, value)


def _check_rank(kind: str, setting: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
        raise _malformed(kind, setting, value)


def _malformed(kind: str, setting: str, value: Any) -> NotAdoptable:
    return refused(
        kind, f"its setting {setting} is {shown(value)}", fix="correct it, or fetch the adapter again"
    )


def _names(modules: Any) -> str:
    return shown(", ".join(map(str, modules)) if isinstance(modules, list) else modules)
