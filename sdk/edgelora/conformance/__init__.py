"""The conformance suite of the specification: its vectors, this implementation's reader, and foreign ones.

The vectors lie in spec/v1/vectors, which is no part of the package: every function takes the folder.
"""

from edgelora.conformance.comparison import Comparison, compare, compare_all
from edgelora.conformance.foreign import Verdict, foreign_reader
from edgelora.conformance.own import OWN_FEATURES, READERS, own_reader
from edgelora.conformance.vectors import Vector, load_vectors

__all__ = [
    "OWN_FEATURES",
    "READERS",
    "Comparison",
    "Vector",
    "Verdict",
    "compare",
    "compare_all",
    "foreign_reader",
    "load_vectors",
    "own_reader",
]
