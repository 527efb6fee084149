"""The conformance kit: what every plugin must hold, as classes to subclass in a test file.

A whole test is ``class TestMine(AdapterConformance): part = "mine"``. Each ``test_...`` method is one check,
which fails with a sentence saying what to do. Nothing here needs pytest; it merely collects such classes.
"""

from edgelora.testing.adapter import AdapterConformance
from edgelora.testing.check import CheckResult, check_names, run_check, run_checks
from edgelora.testing.evaluator import EvaluatorConformance
from edgelora.testing.kinds import CONFORMANCE, conformance_of
from edgelora.testing.loss_combiner import LossCombinerConformance
from edgelora.testing.part import PartConformance
from edgelora.testing.plugin import PluginConformance
from edgelora.testing.quantizer import QuantizerConformance
from edgelora.testing.rank_scheduler import RankSchedulerConformance
from edgelora.testing.setting import changed_settings, settings_of

__all__ = [
    "CONFORMANCE",
    "AdapterConformance",
    "CheckResult",
    "EvaluatorConformance",
    "LossCombinerConformance",
    "PartConformance",
    "PluginConformance",
    "QuantizerConformance",
    "RankSchedulerConformance",
    "changed_settings",
    "check_names",
    "conformance_of",
    "run_check",
    "run_checks",
    "settings_of",
]
