import pytest

from edgelora.errors import GateFailed
from edgelora.protocols import Measurement
from edgelora_cli.evaluate import _check_gates, _parse_gate

FOUND = {"main.exact_match": Measurement(0.8, 50, 0.67, 0.89)}


@pytest.mark.parametrize("gate", ["main.exact_match>=0.8", "main.exact_match <= 0.9"])
def test_a_gate_that_holds_lets_pass(gate):
    _check_gates(FOUND, [_parse_gate(gate)])


def test_a_gate_that_does_not_hold_names_value_and_bar():
    with pytest.raises(GateFailed) as caught:
        _check_gates(FOUND, [_parse_gate("main.exact_match>=0.9")])
    assert caught.value.problem == "main.exact_match is 0.8 (n = 50), and it had to be >= 0.9"
    assert caught.value.fix == "train longer or on more data, or lower the bar"


def test_a_gate_on_nothing_measured_names_what_was():
    with pytest.raises(GateFailed, match="nothing measured") as caught:
        _check_gates(FOUND, [_parse_gate("main.accuracy>=0.9")])
    assert caught.value.fix == "measured were: main.exact_match"


def test_a_value_that_is_no_number_fails_every_gate():
    nothing = {"main.loss": Measurement(float("nan"), 0, float("nan"), float("nan"))}
    with pytest.raises(GateFailed):
        _check_gates(nothing, [_parse_gate("main.loss<=100")])
