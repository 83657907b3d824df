"""Helpers of dlmachine that other programs used."""

import hashlib
import os
from collections.abc import Sequence
from email.message import Message
from email.utils import collapse_rfc2231_value
from pathlib import Path


def file_digest(path: str | os.PathLike[str], digest: str = "sha256") -> str:
    """The digest of a file, in hex. Raises OSError; ValueError for a digest that is not known."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, digest).hexdigest()


def parse_header(header: str | None, keys: Sequence[str] | None = None) -> dict[str, str]:
    """The value of a field as `0`, and its parameters by their names; `keys` are names for the values without one."""
    message = Message()
    message["content-type"] = header or ""
    (value, _), *parameters = message.get_params(failobj=[("", "")])
    found = {keys[0] if keys else "0": value}
    return found | {name: collapse_rfc2231_value(text) for name, text in parameters}
