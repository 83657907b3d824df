"""The examples that the older packages' documents give run as they stand there, but for the line that imports, the servers'
names and the directory for temporary files."""

import bz2
import contextlib
import gzip
import io
import json
import re
import time
from pathlib import Path

import pytest
from documentation import fenced, section
from origin import Origin

CACHE_MANAGER = {
    "minimal": """
import cache_manager as cm
from cache_manager._status import Status

cache = cm.Cache(path="./my_cache")
item = cache.create(
    uri="https://example.org/data.tsv",
    params={"dataset": "demo", "version": 1},
    attrs={"species": "human", "rows": 1200},
    status=Status.WRITE.value,
    filename="data.tsv",
)

with open(item.path, "w", encoding="utf-8") as f:
    f.write("col_a\\tcol_b\\n1\\t2\\n")

item.ready()
best = cache.best(
    uri="https://example.org/data.tsv",
    params={"dataset": "demo", "version": 1},
)
print(best, best.path)
""",
    "create or reuse": """
import os
import cache_manager as cm
from cache_manager._status import Status

cache = cm.Cache(path="./my_cache")
uri = "https://example.org/report.csv"
params = {"year": 2026, "cohort": "A"}

item = cache.best_or_new(
    uri=uri,
    params=params,
    attrs={"kind": "report", "format": "csv"},
    filename="report.csv",
    new_status=Status.WRITE.value,
)

if item.status != Status.READY.value or not os.path.exists(item.path):
    with open(item.path, "w", encoding="utf-8") as f:
        f.write("id,value\\n1,42\\n")
    item.ready()

print("Using:", item.path)
""",
    "query": """
import cache_manager as cm
from cache_manager._status import Status

cache = cm.Cache(path="./my_cache")

cache.create(
    uri="demo://sample-1",
    attrs={"project": "alpha", "batch": 1, "score": 0.95},
    status=Status.READY.value,
)
cache.create(
    uri="demo://sample-2",
    attrs={"project": "alpha", "batch": 2, "score": 0.71},
    status=Status.READY.value,
)

ids = cache.by_attrs({"project": "alpha", "batch": 2})
print("matching ids:", ids)

items = cache.search(uri="demo://sample-2", status=Status.READY.value)
for it in items:
    print(it.version_id, it.attrs)
""",
    "open": """
import cache_manager as cm
from cache_manager._status import Status

cache = cm.Cache(path="./my_cache")
item = cache.create(
    uri="demo://text-file",
    filename="hello.txt",
    status=Status.WRITE.value,
)

with open(item.path, "w", encoding="utf-8") as f:
    f.write("hello\\nworld\\n")

item.ready()

opened = item.open(default_mode="r", encoding="utf-8", large=True)
print(next(iter(opened.result)).strip())
""",
}
DOWNLOAD_MANAGER = {
    "usage": """
import download_manager as dm

# Basic download to buffer
manager = dm.DownloadManager(backend='requests')
data = manager.download('https://www.google.com', dest=False)
print(data.read())

# Download to a file
manager = dm.DownloadManager(path='/tmp')
filepath = manager.download('https://www.google.com', dest='/tmp/google.html')
print(f"Downloaded to {filepath}")

# Download with cache integration
manager = dm.DownloadManager(path='/tmp')
filepath = manager.download('https://www.google.com')
print(f"Cached at {filepath}")
""",
    "configuration": """
dm.DownloadManager(
    path='/my/cache/dir',
    backend='curl',  # or 'requests'
    # ...other options
)
""",
}
UST = """
import logging
from ust_download_cache import USTDownloadCache

logger = logging.getLogger("")
download_cache = USTDownloadCache(logger)

contents = download_cache.get_from_url(url)

metadata = contents["metadata"] # used by USTDownloadCache
data = contents["data"]
"""
MODULES = {
    "cache_manager": "package_cache.compat.cachedir",
    "download_manager": "package_cache.compat.dlmachine",
    "ust_download_cache": "package_cache.compat.ust_download_cache",
}


def run(text: str, names: dict[str, object] | None = None) -> tuple[dict[str, object], str]:
    """Run an example with another import line; the names that it made, and what it printed."""
    lines = [
        re.sub("|".join(MODULES), lambda match: MODULES[match[0]], line) if "import" in line.split() else line
        for line in text.splitlines()
    ]
    found, said = dict(names or {}), io.StringIO()
    with contextlib.redirect_stdout(said):
        exec("\n".join(lines), found)
    return found, said.getvalue()


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("SNAP_USER_COMMON", raising=False)


def test_cache_manager_stores_a_file_and_finds_the_best() -> None:
    names, said = run(CACHE_MANAGER["minimal"])
    path = names["best"].path  # type: ignore[attr-defined]
    assert said == f"CacheItem[https://example.org/data.tsv V:1 READY] {path}\n"
    assert Path(path).read_text() == "col_a\tcol_b\n1\t2\n"
    assert path.endswith(".tsv")


def test_cache_manager_creates_or_reuses_an_item() -> None:
    _, first = run(CACHE_MANAGER["create or reuse"])
    names, second = run(CACHE_MANAGER["create or reuse"])
    assert first == second
    assert names["item"].version == 1  # type: ignore[attr-defined]


def test_cache_manager_searches_by_attributes() -> None:
    names, said = run(CACHE_MANAGER["query"])
    [item] = names["items"]  # type: ignore[misc]
    assert names["ids"] == {item._id}
    assert said.endswith(f"{item.version_id} {{'project': 'alpha', 'batch': 2, 'score': 0.71}}\n")


def test_cache_manager_opens_a_file() -> None:
    assert run(CACHE_MANAGER["open"])[1] == "hello\n"


def test_download_manager_downloads_to_buffer_file_and_cache(origin: Origin, tmp_path: Path) -> None:
    origin.put("/", b"a page\n")
    text = DOWNLOAD_MANAGER["usage"].replace("https://www.google.com", origin.url.rstrip("/"))
    names, said = run(text.replace("/tmp", str(tmp_path)))
    assert said.startswith(f"b'a page\\n'\nDownloaded to {tmp_path}/google.html\nCached at {tmp_path}/")
    assert (tmp_path / "google.html").read_bytes() == Path(str(names["filepath"])).read_bytes() == b"a page\n"


def test_the_import_lines_of_the_guide_import_these() -> None:
    names: dict[str, object] = {}
    exec(fenced(section("migrating", "The import line"), "python")[0], names)
    assert {"cm", "dm", "Status", "USTDownloadCache"} <= set(names)


def test_download_manager_is_configured(tmp_path: Path) -> None:
    names, _ = run("import download_manager as dm")
    run(DOWNLOAD_MANAGER["configuration"].replace("/my/cache/dir", str(tmp_path / "made")), names)
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_ust_download_cache_gets_a_document(origin: Origin, tmp_path: Path, pack: object) -> None:
    document = {"metadata": {"timestamp": int(time.time()), "ttl": 3600, "version": "1.0"}, "data": {"name1": "value1"}}
    origin.put("/document", pack(json.dumps(document).encode()))  # type: ignore[operator]
    for _ in range(2):
        names, _ = run(UST, {"url": f"{origin.url}document"})
        assert (names["metadata"], names["data"]) == (document["metadata"], document["data"])
    assert len(origin.requests()) == 1
    assert (tmp_path / ".ust_cache").is_dir()
