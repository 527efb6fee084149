"""Bundles: adapters and base models in one file, for machines that no network reaches."""

from edgelora.bundles.checking import check_bundle
from edgelora.bundles.importing import Imported, import_bundle
from edgelora.bundles.index import BundledAdapter, BundledBase, Index
from edgelora.bundles.reading import Bundle, open_bundle, read_bundle
from edgelora.bundles.trust import index_signers, judge_index, sign_index
from edgelora.bundles.writing import Created, create_bundle

__all__ = [
    "Bundle",
    "BundledAdapter",
    "BundledBase",
    "Created",
    "Imported",
    "Index",
    "check_bundle",
    "create_bundle",
    "import_bundle",
    "index_signers",
    "judge_index",
    "open_bundle",
    "read_bundle",
    "sign_index",
]
