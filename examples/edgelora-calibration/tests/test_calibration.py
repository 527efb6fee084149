import torch
from edgelora_calibration.metric import CalibrationError
from edgelora_calibration.options import CalibrationOptions

from edgelora.protocols import Batch, Evaluation
from edgelora.testing import EvaluatorConformance


class TestCalibration(EvaluatorConformance):
    part = "calibration"


class Confident:
    """Says token 1 with probability 0.8, whatever it reads."""

    def __call__(self, input_ids, attention_mask):
        self.logits = torch.tensor([0.1, 0.8, 0.1]).log().expand(*input_ids.shape, 3)
        return self


def test_the_error_is_how_far_confidence_is_from_accuracy():
    labels = torch.tensor([[-100, 1, 1, 1, 0], [-100, 1, -100, -100, -100]])
    batch = Batch(labels.clamp_min(0), torch.ones_like(labels), labels, torch.tensor([0, 0]))
    run = Evaluation(Confident(), None, {}, [batch], ["main"], None, seed=0)
    measured = CalibrationError(CalibrationOptions())(run)["main.calibration_error"]
    # Four of five labelled tokens are 1: accuracy 0.8, as confident as it is right.
    assert measured.n == 5 and abs(measured.value) < 1e-6
    run = Evaluation(Confident(), None, {}, [batch], ["main"], None, seed=0)
    batch.labels[0, 1:3] = 2
    wrong = CalibrationError(CalibrationOptions())(run)["main.calibration_error"]
    assert abs(wrong.value - 0.4) < 1e-6 and wrong.low <= wrong.value <= wrong.high
