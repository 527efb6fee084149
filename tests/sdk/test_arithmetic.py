"""The arithmetic of the talks."""

import pytest

from edgelora.arithmetic import SLIDES, bits_per_parameter, quantization_constant_bits, weights_gb

WEIGHTS_GB = {
    7e9: (28, 14, 7, 3.5),
    13e9: (52, 26, 13, 6.5),
    32.5e9: (130, 65, 32.5, 16.25),
    65.2e9: (260.8, 130.4, 65.2, 32.6),
}


@pytest.mark.parametrize("parameters", WEIGHTS_GB)
def test_weights_at_four_widths(parameters):
    assert tuple(weights_gb(parameters).values()) == pytest.approx(WEIGHTS_GB[parameters])


def test_full_fine_tuning_takes_96_bits_for_each_parameter():
    full = bits_per_parameter(65_000_000_000, 0)["full fine-tuning"]
    assert full.total == SLIDES["full fine-tuning"] == 96
    assert full.total * 65e9 / 8 / 1e9 == 780


def test_the_slides_follow_from_an_adapter_of_a_fortieth():
    # 0.4 bit of an adapter in 16 bit; its two moments as 0.8 bit are half of what 32-bit moments take.
    bits = bits_per_parameter(65_000_000_000, 65_000_000_000 // 40)
    assert bits["LoRA"].adapter == bits["LoRA"].gradient == pytest.approx(0.4)
    assert bits["LoRA"].optimizer == pytest.approx(2 * 0.8)
    assert bits["LoRA"].total - bits["LoRA"].optimizer / 2 == pytest.approx(SLIDES["LoRA"])
    without_adapter = bits["QLoRA"].total - bits["QLoRA"].optimizer / 2 - bits["QLoRA"].adapter
    assert without_adapter == pytest.approx(SLIDES["QLoRA"] + quantization_constant_bits(double=True))


def test_constants_of_quantization():
    assert quantization_constant_bits(double=False) == 0.5
    assert quantization_constant_bits(double=True) == pytest.approx(0.127, abs=5e-4)
