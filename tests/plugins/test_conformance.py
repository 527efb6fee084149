"""``edgelora plugins check``, which third parties get, passes on every first-party plugin as it is."""

import json

import pytest
import torch

from edgelora.registry import Registry
from edgelora_cli import run_command

FIRST_PARTY = [status for status in Registry.discover().plugins if status.distribution == "edgelora"]
MANY = 20
"""Parts of a plugin that take too long for every day: some of them are checked in its own folder."""


def parameter(status):
    marks = [pytest.mark.acceptance] if len(status.parts) > MANY else []
    return pytest.param(status, id=status.name, marks=marks)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("status", map(parameter, FIRST_PARTY))
def test_the_plugin_conforms(capsys, status):
    code = run_command(["plugins", "check", status.name, "--json"])
    report = json.loads(capsys.readouterr().out)
    checks = [(each["what"], check) for each in report["checked"] for check in each["checks"]]
    failed = [
        f"{what}: {check['check']}: {check['detail']}"
        for what, check in checks
        if check["outcome"] == "failed"
    ]
    assert failed == []
    usable = [found for found in status.parts if not found.part.unusable]
    assert code == 0 and len(report["checked"]) == 1 + len(usable)
    assert {what for what, check in checks if check["outcome"] == "ok"} == {
        each["what"] for each in report["checked"]
    }
