from pydantic import Field

from edgelora import Options


class CalibrationOptions(Options):
    bins: int = Field(15, ge=1, description="Confidences are grouped into this many bins of equal width.")
    resamples: int = Field(200, ge=2, description="Bootstrap samples of rows behind the interval.")
