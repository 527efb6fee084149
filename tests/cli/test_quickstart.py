from types import SimpleNamespace

from edgelora.manifest import EvaluationEntry
from edgelora_cli.quickstart_table import ROWS, before_and_after, broken_promises


def manifest_with(**values: float) -> SimpleNamespace:
    kept = {"decimals_conflict_base": 0.02, "decimals_conflict": 0.95, "versions": 0.97}
    entries = []
    for metric in ROWS:
        row = metric.removeprefix("litmus.")
        for phase, name in (("base", f"{row}_base"), ("adapter", row)):
            value = {**kept, **values}.get(name, 0.5)
            entries.append(
                EvaluationEntry(
                    metric=metric, value=value, n=500, low=value - 0.01, high=value + 0.01, phase=phase
                )
            )
    return SimpleNamespace(evaluation=tuple(entries))


def test_promises_that_are_kept_are_not_mentioned():
    assert broken_promises(manifest_with()) == []


def test_each_broken_promise_is_named_with_value_and_bar():
    assert broken_promises(
        manifest_with(decimals_conflict=0.5, decimals_conflict_base=0.4, versions=0.8)
    ) == [
        "litmus.decimals_conflict of the adapter is 0.500, promised was >= 0.9",
        "litmus.decimals_conflict of the base is 0.400, promised was <= 0.1",
        "litmus.versions of the adapter is 0.800, promised was >= 0.9",
    ]


def test_the_table_shows_both_phases_with_intervals_and_n():
    text = before_and_after(manifest_with())
    assert "decimals where the orders differ, held-out pairs" in text
    assert "0.020  0.010 to 0.030" in text and "0.950    0.940 to 0.960" in text and "500" in text
    assert "memorised, not held out" in text


def test_the_quickstart_knows_no_other_derivative(edgelora):
    ran = edgelora("quickstart", "--derivative", "dora")
    assert ran.exit_code == 2 and "'dora' is not one of 'lora', 'qlora'" in ran.err
