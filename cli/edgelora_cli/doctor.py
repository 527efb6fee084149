"""``edgelora doctor``: versions, devices, plugins and stores of this machine, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from typing import Any

import click

from edgelora.version import __version__
from edgelora_cli.commands import Command
from edgelora_cli.console import emit, style, table

LIGHT = ("click", "pluggy", "pydantic", "safetensors", "huggingface-hub", "cryptography", "PyYAML")
TRAIN = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "polars", "rich", "psutil")


@click.command(
    cls=Command,
    short_help="Check this machine and say what is missing.",
    examples="""
    edgelora doctor
    edgelora doctor --json > report.json
    """,
)
def doctor() -> None:
    """Check this machine: versions, devices, kernels, plugins, folders, and how to get what is missing."""
    from edgelora_cli.dependencies import TRAIN_FIX

    report: dict[str, Any] = {
        "edgelora": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: _version(name) for name in (*LIGHT, *TRAIN)},
        "devices": _devices(),
        "plugins": _plugins(),
        "folders": _folders(),
    }
    missing = [name for name in TRAIN if report["packages"][name] is None]
    advice = [f"for training, install {', '.join(missing)}: {TRAIN_FIX}"] if missing else []
    advice += [
        f"plugin {plugin['name']} is {plugin['state']}: {plugin['fix']}"
        for plugin in report["plugins"]
        if plugin["state"] not in ("ready", "blocked")
    ]
    report["advice"] = advice
    emit(report, _describe(report))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        return {"torch": False}
    import torch

    cuda = torch.cuda.is_available()
    return {
        "torch": True,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        if cuda
        else [],
        "cuda_bfloat16": bool(cuda and torch.cuda.is_bf16_supported()),
        "nf4": "bitsandbytes" if importlib.util.find_spec("bitsandbytes") else None,
    }


def _plugins() -> list[dict[str, str]]:
    from edgelora.registry import Registry

    return [
        {"name": plugin.name, "state": plugin.state, "cause": plugin.cause, "fix": plugin.fix}
        for plugin in Registry.discover().plugins
    ]


def _folders() -> dict[str, Any]:
    from edgelora.locations import cache_dir, config_dir, home

    places = {"home": home(), "config": config_dir(), "cache": cache_dir()}
    existing = home()
    while not existing.exists():
        existing = existing.parent
    return {name: str(path) for name, path in places.items()} | {
        "free_gib": round(shutil.disk_usage(existing).free / 2**30, 1)
    }


def _describe(report: dict[str, Any]) -> str:
    devices, folders = report["devices"], report["folders"]
    lines = [
        f"edgelora {report['edgelora']}, Python {report['python']} ({sys.executable})",
        f"{report['platform']}, {report['cpus']} CPUs",
        "",
        table(
            ("package", "version"),
            [(name, version or "missing") for name, version in report["packages"].items()],
        ),
        "",
    ]
    if devices["torch"]:
        cuda = ", ".join(devices["cuda"]) or "none"
        lines += [
            f"CPU kernels {devices['cpu_capability']}, {devices['threads']} threads; CUDA devices: {cuda}"
        ]
        lines += [f"4 bit: {devices['nf4'] or 'bitsandbytes is missing'}"]
    lines += [f"plugins: {', '.join(plugin['name'] + ' ' + plugin['state'] for plugin in report['plugins'])}"]
    lines += [f"{name}: {folders[name]}" for name in ("home", "config", "cache")]
    lines += [f"free disk: {folders['free_gib']} GiB", ""]
    if report["advice"]:
        lines += [style("To do", bold=True), *(f"  {line}" for line in report["advice"])]
    else:
        lines += ["nothing is missing"]
    return "\n".join(lines)
