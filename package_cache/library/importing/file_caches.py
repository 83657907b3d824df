"""The directory of UST-Download-Cache: `file_cache.json` says which file has which document."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from package_cache.errors import ArgumentError
from package_cache.library.downloads.descriptors import Descriptor
from package_cache.library.forms import new_item
from package_cache.library.importing.finds import Find, Refused
from package_cache.model import Status
from package_cache.rules.repositories.documents import parse

NAME = "file_cache.json"


class FileCache:
    """The documents in a directory. Raises ArgumentError for a list of them that cannot be read."""

    title = "a directory of UST-Download-Cache"

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            listed = json.loads((root / NAME).read_bytes())
        except OSError as error:
            raise ArgumentError(f"{root / NAME} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ArgumentError(f"{root / NAME} is no JSON: {error}") from error
        if not isinstance(listed, dict):
            raise ArgumentError(f"{root / NAME} is no list of documents by their URLs")
        self._listed: dict[str, Any] = listed

    def count(self) -> int:
        """How many documents are listed."""
        return len(self._listed)

    def __iter__(self) -> Iterator[Find | Refused]:
        for url, record in self._listed.items():
            try:
                yield self._find(url, record)
            except (ValueError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                yield Refused(url, f"its document cannot be used: {reason}")

    def _find(self, url: str, record: Any) -> Find | Refused:
        path = self._file(record)
        if path is None:
            return Refused(url, "its document is missing")
        parse(path.read_bytes())
        descriptor, written = Descriptor(url), path.stat().st_mtime
        params = {"dl_params": descriptor.identity()}
        new = new_item(descriptor.baseurl, params, _attributes(descriptor), Status.READY, None, None, None)
        received = min(written, time.time())
        # Its date is when the publisher was asked last.
        details = replace(new.details, date=int(received * 1e6))
        return Find(url, new.key, None, file=path, source=descriptor.url, received=received, details=details, measured=True)

    def _file(self, record: Any) -> Path | None:
        """The file of a document, also if the directory was moved."""
        path = record.get("path") if isinstance(record, dict) else None
        if not isinstance(path, str) or "\0" in path:
            return None
        return next((one for one in (self._root / Path(path).name, Path(path)) if one.is_file()), None)


def _attributes(descriptor: Descriptor) -> dict[str, object]:
    url = descriptor.url
    return {"url": url, "resolved_url": url, "http_code": 200, "descriptor": descriptor.record()}
