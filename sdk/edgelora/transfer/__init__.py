"""Moving adapters between this machine and stores, and finding them in either."""

from edgelora.transfer.caching import (
    CacheCheck,
    CacheEntry,
    cached_files,
    list_cache,
    prunable,
    remove_cached,
    verify_cache,
)
from edgelora.transfer.catalog import (
    Listing,
    Removed,
    address_named,
    find_manifest,
    list_adapters,
    list_published,
    remove,
    search,
)
from edgelora.transfer.fetching import Progress
from edgelora.transfer.pulling import Pulled, pull
from edgelora.transfer.pushing import Receipt, push
from edgelora.transfer.releasing import release_as
from edgelora.transfer.resolve import FoundAdapter, find_adapter, locate_adapter, resolve_adapter
from edgelora.transfer.yanking import Withdrawal, unyank, yank, yank_reason

__all__ = [
    "CacheCheck",
    "CacheEntry",
    "FoundAdapter",
    "Listing",
    "Progress",
    "Pulled",
    "Receipt",
    "Removed",
    "Withdrawal",
    "address_named",
    "cached_files",
    "find_adapter",
    "find_manifest",
    "list_adapters",
    "list_cache",
    "list_published",
    "locate_adapter",
    "prunable",
    "pull",
    "push",
    "release_as",
    "remove",
    "remove_cached",
    "resolve_adapter",
    "search",
    "unyank",
    "verify_cache",
    "yank",
    "yank_reason",
]
