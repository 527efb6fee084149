"""Expected calibration error of next-token predictions. Guo et al., arXiv:1706.04599."""

from edgelora import Part, hookimpl


@hookimpl
def edgelora_evaluators() -> list[Part]:
    return [
        Part(
            name="calibration",
            target="edgelora_calibration.metric:CalibrationError",
            options="edgelora_calibration.options:CalibrationOptions",
            summary="mean distance between confidence and being right, per task",
            paper="arXiv:1706.04599",
        )
    ]
