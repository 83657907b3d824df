"""The lock on the whole registry, which does not exist here."""

from package_cache.compat.gone import gone


class Lock:
    """Raises: every method of `Cache` is one transaction by itself."""

    def __init__(self, con: object) -> None:  # noqa: ARG002
        gone(
            "Lock",
            "each method of Cache is one transaction; best_or_new() gives an item to one writer at a time, and"
            " package_cache.Cache.writing() makes one READY in one step",
        )
