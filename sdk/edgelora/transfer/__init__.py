"""Moving adapters between this machine and stores, and finding them in either."""

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
from edgelora.transfer.resolve import locate_adapter, resolve_adapter
from edgelora.transfer.yanking import Withdrawal, unyank, yank, yank_reason

__all__ = [
    "Listing",
    "Progress",
    "Pulled",
    "Receipt",
    "Removed",
    "Withdrawal",
    "address_named",
    "find_manifest",
    "list_adapters",
    "list_published",
    "locate_adapter",
    "pull",
    "push",
    "remove",
    "resolve_adapter",
    "search",
    "unyank",
    "yank",
    "yank_reason",
]
