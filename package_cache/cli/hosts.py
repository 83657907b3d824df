"""What a server needs of this machine beside its settings. The bare command does without any of it."""

from importlib import import_module

from package_cache.config import Config
from package_cache.errors import ConfigError

_LEAST = (25, 1)
"""The oldest Gunicorn whose threaded worker and arbiter are as those here take them to be."""


def require_gunicorn(config: Config) -> None:
    """Raise ConfigError where the server is to run under Gunicorn, and there is none or too old a one."""
    if config.server != "gunicorn":
        return
    try:
        found = tuple(import_module("gunicorn").version_info)
    except ModuleNotFoundError as error:
        if error.name != "gunicorn":
            raise
        found = ()
    if found[:2] < _LEAST:
        what = f"Gunicorn {'.'.join(map(str, found))} is too old" if found else "Gunicorn is not installed"
        raise ConfigError([f"--server gunicorn: {what}; it takes {'.'.join(map(str, _LEAST))} or later"])
