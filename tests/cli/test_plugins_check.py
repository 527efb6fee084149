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


UNBUILDABLE = """
from edgelora import Options, Part, hookimpl

@hookimpl
def edgelora_loss_combiners():
    yield Part(name="misspelt", target="planted_faults:NoSuchTarget", summary="planted")
    yield Part(name="typo", target="typo_combiner:Combiner", summary="planted")
    yield Part(name="open", target="planted_faults:Vector", options="unbuildable_options:Loose", summary="-")

@hookimpl
def edgelora_adapters():
    adapter = {"options": "edgelora:AdapterOptions", "summary": "-", "abilities": ("Additive", "LowRank")}
    yield Part(name="swapped", target="planted_faults:SwappedAdapter", **adapter)
    yield Part(name="no-factors", target="planted_faults:NoFactorsAdapter", **adapter)
"""
LOOSE = """
from edgelora import Options


class Loose(Options):
    model_config = {"extra": "allow"}
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
    assert "it refuses a plan whose adapter has rank 4: budget: target_rank 16 is more" in failed[0]
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


def test_what_cannot_be_built_is_told_once_to_its_author(edgelora, environment):
    environment.install(
        "unbuildable",
        {"unbuildable": "unbuildable_listing"},
        modules={
            "unbuildable_listing": UNBUILDABLE,
            "unbuildable_options": LOOSE,
            "typo_combiner": "\nclass Combiner(:\n",
        },
    )
    ran = edgelora("plugins", "check", "unbuildable", "--json")
    assert ran.exit_code == 10
    causes = {}
    for section in ran.document["checked"][1:]:
        first, *others = section["checks"]
        assert (first["check"], first["outcome"]) == ("it can be built", "failed")
        assert {(each["outcome"], each["detail"]) for each in others} == {
            ("skipped", "the part cannot be built")
        }
        causes[section["what"].rpartition(" ")[2]] = first["detail"]
    assert "there is no NoSuchTarget in planted_faults" in causes["misspelt"]
    assert "SyntaxError: " in causes["typo"] and "typo_combiner.py:2)" in causes["typo"]
    assert causes["open"].endswith("; remove extra= from its model_config: edgelora.Options forbids them")
    assert "gave A of (" in causes["swapped"] and "return (A, B, scaling), A of (rank, " in causes["swapped"]
    assert "q_proj gave NoneType; return Factors(A, B, scaling)" in causes["no-factors"]
    assert "tell its author" not in ran.out


def test_a_plugin_that_does_not_load_is_told_once_with_its_file(edgelora, environment):
    environment.install("typo", {"typo": "typo_listing"}, modules={"typo_listing": "\ndef broken(:\n"})
    ran = edgelora("plugins", "check", "typo")
    (line,) = [line for line in ran.out.splitlines() if "FAILED" in line]
    assert "it loads as ready" in line and "typo_listing.py:2)" in line
    assert ran.out.count(": the plugin does not load") == 4


def test_what_the_user_sets_wrongly_is_no_finding(edgelora):
    for change, said in {
        "budget.foo=1": "there is no option 'foo'",
        "svd.rank=0": "rank is 0",
    }.items():
        ran = edgelora("plugins", "check", "adalora", "--set", change)
        assert (ran.exit_code, "error[options-invalid]" in ran.err) == (3, True)
        assert said in ran.err and f"change --set {change.partition('.')[0]}" in ran.err
        assert ran.out == ""


@pytest.mark.parametrize("name", ["budget", "nf4-icq", "irqlora:iec"])
def test_the_name_of_a_part_leads_to_its_plugin(edgelora, name):
    ran = edgelora("plugins", "check", name)
    owner = "adalora" if name == "budget" else "irqlora"
    assert ran.exit_code == 7
    assert f"{name!r} is in plugin {owner}: edgelora plugins check {owner}" in ran.err
    shown = edgelora("plugins", "show", name)
    assert shown.exit_code == 0
    assert shown.out.startswith(f"{owner}: ready")


def test_checks_are_listed_as_the_report_names_them(edgelora):
    ran = edgelora("plugins", "check", "lora", "--skip", "foo=bar")
    assert "there are: a fresh process computes the same, a missing task is safe, " in ran.err
