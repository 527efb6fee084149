from pydantic import Field

from edgelora import AdapterOptions


class EvaOptions(AdapterOptions):
    batches: int = Field(10, ge=1, description="Batches of training rows looked at before the first step.")
