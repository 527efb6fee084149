"""Training data: files to tokenized rows, the order of the rows, and padded batches."""

from edgelora.engine.data.collate import collate
from edgelora.engine.data.dataset import Dataset, Row, load_dataset
from edgelora.engine.data.order import StepOrder
from edgelora.engine.data.render import render_prompt
from edgelora.engine.data.report import DataReport, SourceReport

__all__ = [
    "DataReport",
    "Dataset",
    "Row",
    "SourceReport",
    "StepOrder",
    "collate",
    "load_dataset",
    "render_prompt",
]
