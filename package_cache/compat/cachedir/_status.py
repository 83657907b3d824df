"""The states of items, under the module's name in cachedir."""

from package_cache.model import Status

__all__ = ["Status"]
