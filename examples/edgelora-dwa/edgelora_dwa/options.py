from pydantic import Field

from edgelora import Options


class DwaOptions(Options):
    every: int = Field(20, ge=1, description="Steps over which losses are averaged; the paper's epoch.")
    temperature: float = Field(2.0, gt=0, description="Large: all tasks weigh alike. T of the paper.")
