"""``edgelora plugins check``, which third parties get, passes on every first-party plugin as it is."""

import json

import pytest
import torch

from edgelora.registry import Registry
from edgelora_cli import run_command

FIRST_PARTY = [status for status in Registry.discover().plugins if status.distribution == "edgelora"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("status", FIRST_PARTY, ids=lambda status: status.name)
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
    assert code == 0 and len(report["checked"]) == 1 + len(status.parts)
    assert {what for what, check in checks if check["outcome"] == "ok"} == {
        each["what"] for each in report["checked"]
    }
