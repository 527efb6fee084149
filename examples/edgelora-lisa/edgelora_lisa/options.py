from pydantic import Field

from edgelora import Options


class LisaOptions(Options):
    active: int = Field(2, ge=1, description="Sites that learn at the same time; γ of the paper.")
    every: int = Field(10, ge=1, description="Steps after which they are drawn anew; K of the paper.")
