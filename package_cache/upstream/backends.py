"""The backends by name. Those that are extras are imported when they are asked for."""

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module

from package_cache.errors import ConfigError
from package_cache.upstream.calls import Backend, Reach

NAMES = ("urllib3", "requests", "curl")
_CLASSES = {"urllib3": "Urllib3Backend", "requests": "RequestsBackend", "curl": "CurlBackend"}


def backend_of(name: str) -> Callable[[Reach], Backend]:
    """What makes a backend of that name. Raises ConfigError if there is none, or its extra is not installed."""
    if name not in NAMES:
        near = get_close_matches(str(name), NAMES, 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError([f"backend={name!r} is not known; known are {', '.join(NAMES)}.{meant}"])
    try:
        module = import_module(f"package_cache.upstream.with_{name}")
    except ModuleNotFoundError as error:
        raise ConfigError([f"backend={name!r} needs {error.name}: pip install 'package-cache[{name}]'"]) from error
    make: Callable[[Reach], Backend] = getattr(module, _CLASSES[name])
    return make
