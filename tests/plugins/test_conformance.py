"""Every part of every first-party plugin passes the kit that third parties get."""

import pytest
import torch

from edgelora.registry import Registry
from edgelora.testing import PluginConformance, check_names, conformance_of, run_check

OPTIONS = {
    "budget": {"target_rank": 2, "warmup_steps": 0, "final_steps": 2, "every": 1},
    "litmus": {"samples": 4},
    "nf4-icq": {"search_steps": 10},
}
"""Smaller than the defaults, where the kit's tiny runs ask for it."""
FIRST_PARTY = [status for status in Registry.discover().plugins if status.distribution == "edgelora"]
CHECKED = [
    (f"{found.kind}:{found.part.name}", conformance_of(found, options=OPTIONS.get(found.part.name, {})))
    for status in FIRST_PARTY
    for found in status.parts
]
OF_PLUGINS = set(check_names(PluginConformance))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", [status.name for status in FIRST_PARTY])
def test_the_plugin_conforms(name):
    checked = type(name, (PluginConformance,), {"plugin": name})
    assert failures(checked, check_names(checked)) == []


@pytest.mark.parametrize("checked", [kind for _, kind in CHECKED], ids=[name for name, _ in CHECKED])
def test_the_part_conforms(checked):
    names = [name for name in check_names(checked) if name not in OF_PLUGINS]
    assert failures(checked, names) == []


def failures(checked, names):
    found = [run_check(checked, name) for name in names]
    assert any(result.outcome == "ok" for result in found)
    return [f"{result.sentence}: {result.detail}" for result in found if result.outcome == "failed"]
