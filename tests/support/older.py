"""Caches as the older packages left them, made by hand."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

_MAIN = (
    "id INTEGER PRIMARY KEY AUTOINCREMENT, item_id VARCHAR, version_id VARCHAR, version INT, status INT, file_name VARCHAR,"
    " label VARCHAR, date DATETIME, ext VARCHAR, last_read DATETIME, last_search DATETIME, read_count INT, search_count INT"
)
_KINDS = {"varchar": "VARCHAR", "int": "INT", "datetime": "DATETIME", "float": "FLOAT", "text": "TEXT"}


class OldItems:
    """A directory of cachedir, with its registry."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.connection = sqlite3.connect(root / "cache.sqlite")
        self.connection.execute(f"CREATE TABLE main ({_MAIN})")
        for name, kind in _KINDS.items():
            self.connection.execute(
                f"CREATE TABLE attr_{name} (id INT, namespace VARCHAR, keyvar INT, name VARCHAR, value {kind})"
            )

    def add(
        self,
        key: str,
        uri: str | None,
        data: bytes | None = None,
        *attributes: tuple[Any, ...],
        version: int = 1,
        status: int = 3,
        ext: str | None = None,
        label: str | None = None,
        filename: str | None = None,
        date: str = "2024-05-06 07:08:09",
        last_read: str | None = None,
        read_count: int = 0,
        on_disk: str | None = None,
    ) -> Path:
        """An item; each of `attributes` is kind, namespace, whether a parameter, name, value. The path of its file."""
        stem = f"{key}-{version}"
        values = (key, stem, version, status, filename, label, date, ext, last_read, None, read_count, 0)
        number = self.connection.execute(f"INSERT INTO main VALUES (NULL, {', '.join('?' * 12)})", values).lastrowid
        uris = [("varchar", None, 1, "_uri", uri)] if uri is not None else []
        for kind, *rest in (*attributes, *uris):
            self.connection.execute(f"INSERT INTO attr_{kind} VALUES (?, ?, ?, ?, ?)", (number, *rest))
        path = self.root / (on_disk or (f"{stem}.{ext}" if ext else stem))
        if data is not None:
            path.write_bytes(data)
        return path

    def close(self) -> Path:
        """Write it; the directory."""
        self.connection.commit()
        self.connection.close()
        return self.root


def old_documents(root: Path, documents: dict[str, dict[str, Any] | bytes]) -> Path:
    """A directory of UST-Download-Cache, which was somewhere else before; the directory."""
    root.mkdir()
    listed = {}
    for number, (url, document) in enumerate(documents.items()):
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        (root / f"file-{number}").write_bytes(data)
        listed[url] = {"url": url, "path": f"/elsewhere/.ust_cache/file-{number}", "timestamp": 1, "ttl": 2}
    (root / "file_cache.json").write_text(json.dumps(listed, indent=4))
    return root


def snapshot(root: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All that a directory holds: what changes if somebody touches it."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, status.st_ino, data)
    return found


def entries(cache: Path) -> list[tuple[Any, ...]]:
    """Key, version, status and size of all that a new cache holds."""
    query = "SELECT key, version, status, size FROM entry LEFT JOIN blob USING (digest) ORDER BY key, version"
    with closing(sqlite3.connect(cache / "registry-v1.db")) as connection:
        return connection.execute(query).fetchall()
