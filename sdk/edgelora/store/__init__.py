"""Where adapters live: references, versions, configured stores, and the directory mirror."""

from edgelora.store.configured import (
    StoreConfig,
    add_store,
    normal_address,
    read_store_config,
    real_address,
    remove_store,
    set_default_store,
)
from edgelora.store.directory import DirectoryStore
from edgelora.store.fsck import Problem, Report
from edgelora.store.opening import open_store
from edgelora.store.protocol import Publication, Snapshot, SourceChanged, Store, StoredFile
from edgelora.store.reference import Reference, check_name, folder_text, is_folder_path, parse_reference
from edgelora.store.versions import Version, is_version, latest_version, parse_version, sort_versions

__all__ = [
    "DirectoryStore",
    "Problem",
    "Publication",
    "Reference",
    "Report",
    "Snapshot",
    "SourceChanged",
    "Store",
    "StoreConfig",
    "StoredFile",
    "Version",
    "add_store",
    "check_name",
    "folder_text",
    "is_folder_path",
    "is_version",
    "latest_version",
    "normal_address",
    "open_store",
    "parse_reference",
    "parse_version",
    "read_store_config",
    "real_address",
    "remove_store",
    "set_default_store",
    "sort_versions",
]
