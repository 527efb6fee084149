from edgelora.testing import QuantizerConformance


class TestInt8(QuantizerConformance):
    part = "absmax8"
