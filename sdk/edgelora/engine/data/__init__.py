"""Training data: files to tokenized rows, the order of the rows, and padded batches."""

from edgelora.engine.data.collate import collate, collate_packed
from edgelora.engine.data.dataset import Dataset, Row, load_dataset
from edgelora.engine.data.order import StepOrder
from edgelora.engine.data.packing import PackingReport, pack_step, report_packing
from edgelora.engine.data.render import render_prompt
from edgelora.engine.data.report import DataReport, SourceReport

__all__ = [
    "DataReport",
    "Dataset",
    "PackingReport",
    "Row",
    "SourceReport",
    "StepOrder",
    "collate",
    "collate_packed",
    "load_dataset",
    "pack_step",
    "render_prompt",
    "report_packing",
]
