"""Downloads: a registry of files with sizes and hashes, and a cache of complete, checked files."""

from sida.assets.cache import cache_dir
from sida.assets.download import Transfer
from sida.assets.fetch import check_pinned_code, checked, fetch, fetch_many, forget, verify_asset
from sida.assets.registry import Asset, check_network, find_asset, is_address, load_registry

__all__ = [
    "Asset",
    "Transfer",
    "cache_dir",
    "check_pinned_code",
    "check_network",
    "checked",
    "fetch",
    "fetch_many",
    "find_asset",
    "forget",
    "is_address",
    "load_registry",
    "verify_asset",
]
