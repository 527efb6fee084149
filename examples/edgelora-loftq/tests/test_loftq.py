from edgelora.testing import AdapterConformance


class TestLoftq(AdapterConformance):
    part = "loftq"
