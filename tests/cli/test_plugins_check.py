"""``edgelora plugins check``: the kit as a report, for people and for programs."""

import json

import pytest

LISTING = """
from edgelora import Part, hookimpl

@hookimpl
def edgelora_loss_combiners():
    yield Part(name="aux-less", target="planted_faults:DropsAuxiliary", summary="planted")
"""


@pytest.fixture
def faulty(environment):
    environment.install("faulty", {"faulty": "faulty_listing"}, modules={"faulty_listing": LISTING})


def test_a_sound_plugin_passes(edgelora):
    ran = edgelora("plugins", "check", "yugopuspito2024")
    assert ran.exit_code == 0
    assert "plugin yugopuspito2024 (edgelora 0.1.0)" in ran.out
    assert "ok       auxiliary losses are counted" in ran.out
    assert " 0 failed" in ran.out.splitlines()[-1]


def test_a_fault_is_told_with_what_to_do_and_exits_10(edgelora, faulty):
    ran = edgelora("plugins", "check", "faulty")
    assert ran.exit_code == 10
    (line,) = [line for line in ran.out.splitlines() if "FAILED" in line]
    assert "auxiliary losses are counted: the total does not grow with aux." in line
    assert "add losses that begin with 'aux.'" in line
    assert "error[gate-failed]: plugin 'faulty' fails 1 of" in ran.err


def test_the_report_as_json_has_every_check_and_the_error(edgelora, faulty):
    ran = edgelora("plugins", "check", "faulty", "--json")
    document = json.loads(ran.out)
    assert document["plugin"] == "faulty" and document["failed"] == 1
    checks = [check for section in document["checked"] for check in section["checks"]]
    assert len(checks) == document["ok"] + document["failed"] + document["skipped"]
    assert document["error"]["id"] == "gate-failed" and document["error"]["exit_code"] == 10


def test_a_check_may_be_left_out_for_a_reason(edgelora, faulty):
    ran = edgelora("plugins", "check", "faulty", "--skip", "auxiliary losses are counted=it has none")
    assert ran.exit_code == 0
    assert "skipped  auxiliary losses are counted: it has none" in ran.out


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["lroa"], 7, "did you mean 'lora'?"),
        (["lora", "--set", "loar.rank=2"], 2, "plugin lora offers no part 'loar'; it offers lora"),
        (["lora", "--set", "rank=2"], 2, "is not of the form PART.OPTION=VALUE"),
        (["faulty", "--skip", "auxiliary losses"], 2, "is not of the form CHECK=REASON"),
        (
            ["faulty", "--skip", "auxiliary losses are countd=why"],
            2,
            "did you mean 'auxiliary losses are counted'",
        ),
    ],
)
def test_wrong_words_are_told(edgelora, faulty, arguments, exit_code, said):
    ran = edgelora("plugins", "check", *arguments)
    assert (ran.exit_code, said in ran.err) == (exit_code, True), ran.err
