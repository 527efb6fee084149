"""Adapters in the forms other tools read.

Neither torch nor the base is needed where the weights are stored as PEFT's LoRA already.
"""

from edgelora.engine.exporting.dequantized import ExportedBase, export_base
from edgelora.engine.exporting.gguf_file import ExportedFile, export_gguf
from edgelora.engine.exporting.peft_folder import ExportedFolder, export_peft
from edgelora.engine.exporting.source import Wanted

__all__ = [
    "ExportedBase",
    "ExportedFile",
    "ExportedFolder",
    "Wanted",
    "export_base",
    "export_gguf",
    "export_peft",
]
