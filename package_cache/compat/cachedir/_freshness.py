"""Whether a file is still what a server has, by the header fields of an answer."""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from package_cache.compat.gone import gone
from package_cache.library.downloads.descriptors import Headers
from package_cache.rules.http.fields import parse_date

Verdict = tuple[bool, str]
_UNAVAILABLE = "method_unavailable"


def metadata_from_item(item: Any) -> dict[str, object]:
    """What is recorded of the download of an item: `etag`, `last_modified`, `sha256` and `size`."""
    return {name: item.attrs.get(name) for name in ("etag", "last_modified", "sha256", "size")}


def check_freshness(
    local_path: str | os.PathLike[str],
    remote_headers: Mapping[str, str],
    local_metadata: Mapping[str, Any] | None = None,
    method: str = "auto",
) -> Verdict:
    """Whether the file is what the fields belong to, and why, by `etag`, `modified`, `hash` or `size`.

    `auto` is the first of etag, modified and size that the server offers.
    """
    path, remote, local = Path(local_path), Headers(tuple(remote_headers.items())), dict(local_metadata or {})
    if not path.exists():
        return False, "local file does not exist"
    if method == "auto":
        for one in ("etag", "modified", "size"):
            verdict, reason = _CHECKS[one](path, remote, local)
            if reason != _UNAVAILABLE:
                return verdict, f"{one}: {reason}"
        return False, "no check method available"
    if method not in _CHECKS:
        return False, f"unknown method: {method}"
    return _CHECKS[method](path, remote, local)


def get_remote_headers(url: str, **options: object) -> dict[str, str]:  # noqa: ARG001
    """Raises: a server is asked with the request itself."""
    gone(
        "get_remote_headers()",
        "DownloadManager.fetch(url, refresh='check') asks whether there is another file, and its result says why it"
        " thinks so: verdict, reason, headers",
    )


def _etag(path: Path, remote: Headers, local: dict[str, Any]) -> Verdict:  # noqa: ARG001
    if "etag" not in remote:
        return False, _UNAVAILABLE
    if not local.get("etag"):
        return False, "no local etag stored"
    same = remote["etag"] == local["etag"]
    return same, "etag match" if same else "etag mismatch"


def _modified(path: Path, remote: Headers, local: dict[str, Any]) -> Verdict:  # noqa: ARG001
    if "last-modified" not in remote:
        return False, _UNAVAILABLE
    if not local.get("last_modified"):
        return False, "no local last-modified stored"
    theirs, ours = parse_date(remote["last-modified"]), parse_date(str(local["last_modified"]))
    if theirs is None or ours is None:
        return False, f"date parse error: {remote['last-modified'] if theirs is None else local['last_modified']!r}"
    return theirs <= ours, "not modified" if theirs <= ours else "modified"


def _hash(path: Path, remote: Headers, local: dict[str, Any]) -> Verdict:
    if "content-md5" in remote:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, _md5).hexdigest() == remote["content-md5"]
        return same, "md5 match" if same else "md5 mismatch"
    return False, "hash check requires download" if local.get("sha256") else _UNAVAILABLE


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def _size(path: Path, remote: Headers, local: dict[str, Any]) -> Verdict:  # noqa: ARG001
    if "content-length" not in remote:
        return False, _UNAVAILABLE
    try:
        same = int(remote["content-length"]) == path.stat().st_size
    except ValueError as error:
        return False, f"size check error: {error}"
    return same, "size match" if same else "size mismatch"


_CHECKS: dict[str, Callable[[Path, Headers, dict[str, Any]], Verdict]] = {
    "etag": _etag,
    "modified": _modified,
    "hash": _hash,
    "size": _size,
}
