"""A caching proxy for package downloads, and the library it is made of."""

from package_cache.compose import Server, create_app, version_text

__version__ = version_text()

__all__ = ["Server", "__version__", "create_app"]
