"""The constants of libcurl, which cannot be set here."""

from package_cache.compat.gone import gone


def process(key: str, value: object) -> object:  # noqa: ARG001
    """Raises: no option is handed through to libcurl."""
    gone("_curlopt.process()", "say timeout, connecttimeout, cainfo and proxies; the same is done with every backend")
