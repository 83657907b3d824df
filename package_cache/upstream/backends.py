"""The backends by name. Those that are extras are imported when they are asked for."""

import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec

from package_cache.errors import ConfigError
from package_cache.upstream.calls import Backend, Reach

NAMES = ("urllib3", "requests", "curl")
_MODULES = {"urllib3": "urllib3", "requests": "requests", "curl": "pycurl"}
_CLASSES = {"urllib3": "Urllib3Backend", "requests": "RequestsBackend", "curl": "CurlBackend"}


def check_backend(name: str) -> None:
    """Raise ConfigError if there is no backend of that name, or its extra is not installed. Imports nothing."""
    if name not in NAMES:
        near = get_close_matches(str(name), NAMES, 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError([f"backend={name!r} is not known; known are {', '.join(NAMES)}.{meant}"])
    needed = _MODULES[name]
    if needed in sys.modules and sys.modules[needed] is not None:
        return
    try:
        found = find_spec(needed)
    except ValueError:
        found = None
    if found is None:
        raise ConfigError([f"backend={name!r} needs {needed}: pip install 'package-cache[{name}]'"])


def backend_of(name: str) -> Callable[[Reach], Backend]:
    """What makes a backend of that name. Raises ConfigError, as `check_backend` does."""
    check_backend(name)
    try:
        module = import_module(f"package_cache.upstream.with_{name}")
    except ImportError as error:
        raise ConfigError([f"backend={name!r} cannot be used: {error}"]) from error
    make: Callable[[Reach], Backend] = getattr(module, _CLASSES[name])
    return make
