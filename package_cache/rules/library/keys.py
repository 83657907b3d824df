"""The key of an item of the library: what was asked for, and how."""

import hashlib
import json
from collections.abc import Mapping

from package_cache.errors import ArgumentError
from package_cache.model import Key
from package_cache.rules.library.attributes import canonical, sound


def library_key(uri: str, params: Mapping[str, object] | None = None) -> Key:
    """SHA-256, in hex, over the canonical JSON of uri and parameters. Raises ArgumentError.

    The order of names does not matter; the order of elements in a list does, and so does every type: 1, 1.0, True and "1"
    make four keys. No parameters are the same as empty ones. Equal times are equal, whatever their zones.
    """
    return key_of(uri, canonical(params or {}, "params"))


def key_of(uri: object, params: str) -> Key:
    """The same, of parameters that are canonical JSON already."""
    if not isinstance(uri, str) or not uri:
        raise ArgumentError(f"uri: a text that names the item is needed, not {uri!r}")
    text = f'{{"params":{params},"uri":{json.dumps(sound(str(uri), "uri"))}}}'
    return Key(hashlib.sha256(text.encode("ascii")).hexdigest())
