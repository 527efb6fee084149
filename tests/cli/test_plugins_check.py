"""``edgelora plugins check``: the kit as a report, for people and for programs."""

import json

import pytest

LISTING = """
from edgelora import Part, hookimpl

@hookimpl
def edgelora_loss_combiners():
    yield Part(name="aux-less", target="planted_faults:DropsAuxiliary", summary="planted")
"""

RAISING = """
from edgelora import Part, hookimpl

@hookimpl
def edgelora_loss_combiners():
    yield Part(name="raises", target="raises_listing:make", summary="planted")


def make(options):
    from edgelora.layers.authoring import SummingCombiner

    class Raises(SummingCombiner):
        def __call__(self, losses, step):
            return list(losses.values())[0] @ losses["task.second"]

    return Raises(options)
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


def test_a_cause_that_many_checks_meet_is_told_once_with_what_its_author_can_set(edgelora):
    ran = edgelora("plugins", "check", "adalora", "--set", "budget.target_rank=16")
    assert ran.exit_code == 10
    failed = [line for line in ran.out.splitlines() if "FAILED" in line]
    assert "it refuses a run of 12 steps over 14 sites of rank 4" in failed[0]
    assert "edgelora plugins check --set" in failed[0] and "adapter.rank" not in failed[0]
    assert all(line.endswith(": as 'it runs through all steps'") for line in failed[1:]) and failed[1:]
    assert ran.err.count("rank scheduler budget: ") == 3 and "and 6 more" in ran.err


def test_the_report_shows_with_what_a_part_was_checked(edgelora):
    ran = edgelora("plugins", "check", "litmus", "--json")
    (section,) = [each for each in ran.document["checked"] if each["what"] == "evaluator litmus"]
    assert section["settings"] == {"samples": 4}
    ran = edgelora(
        "plugins", "check", "litmus", "--set", "litmus.samples=2", "--kit", "litmus.quantizer=nf4-icq"
    )
    assert "  checked with samples 2, quantizer nf4-icq" in ran.out.splitlines()


def test_where_a_part_raises_is_told_in_its_own_file(edgelora, environment):
    environment.install("raises", {"raises": "raises_listing"}, modules={"raises_listing": RAISING})
    ran = edgelora("plugins", "check", "raises")
    assert "raised RuntimeError: " in ran.out and "raises_listing.py:14)" in ran.out


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
        (["lora", "--kit", "quantizers=2"], 2, "is not of the form PART.SETTING=VALUE"),
        (["lora", "--kit", "loar.quantizers=[]"], 2, "--kit: plugin lora offers no part 'loar'"),
        (["lora", "--kit", "lora.steps=2"], 2, "no setting 'steps' of adapter lora; it has quantizers, "),
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
