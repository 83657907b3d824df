"""The examples of the documents run as they are written, one after the other; so do those of the older system."""

import os
import subprocess
import sys
from pathlib import Path

from documentation import README, fenced, section
from origin import Origin

from package_cache import Cache
from package_cache.model import Status


def test_the_example_of_the_readme_runs(origin: Origin, tmp_path: Path) -> None:
    origin.put("/table.tsv.gz", b"\x1f\x8b\x08 a table")
    [example] = fenced(section(README, "The library"), "python")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", example.replace("http://mirror.example/", origin.url)],
        cwd=tmp_path,
        env={**os.environ, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    uri, version, path = run.stdout.split()
    assert (uri, version) == ("my/report", "1")
    assert (tmp_path / path).read_text() == "id,value\n1,42\n2,43\n"


def test_the_examples_of_the_guide_run(tmp_path: Path) -> None:
    examples = fenced(section("library", "The cache"), "python")
    assert len(examples) >= 3
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(examples)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    first, *rest = run.stdout.splitlines()
    assert first.endswith(".csv 1 {'rows': 2}")
    assert rest == ["col_a\tcol_b", "Report(missing=(), abandoned=(), strays=())"]
    assert [path.name for path in tmp_path.iterdir()] == ["my_cache"]


def test_the_habits_of_the_older_system_are_kept(tmp_path: Path) -> None:
    cache = Cache(path=str(tmp_path / "my_cache"))
    item = cache.create(
        uri="https://example.org/data.tsv",
        params={"dataset": "demo", "version": 1},
        attrs={"species": "human", "rows": 1200},
        status=Status.WRITE.value,
        filename="data.tsv",
    )
    with open(item.path, "w", encoding="utf-8") as f:
        f.write("col_a\tcol_b\n1\t2\n")
    item.ready()
    best = cache.best(uri="https://example.org/data.tsv", params={"dataset": "demo", "version": 1})
    assert best is not None
    assert str(best) == "CacheItem[https://example.org/data.tsv V:1 READY]"
    assert best.path.endswith(".tsv")

    arguments = {
        "uri": "https://example.org/report.csv",
        "params": {"year": 2026, "cohort": "A"},
        "attrs": {"kind": "report", "format": "csv"},
        "filename": "report.csv",
        "new_status": Status.WRITE.value,
    }
    for _ in range(2):
        item = cache.best_or_new(**arguments)  # type: ignore[arg-type]
        if item.status != Status.READY.value or not os.path.exists(item.path):
            with open(item.path, "w", encoding="utf-8") as f:
                f.write("id,value\n1,42\n")
            item.ready()
        assert item.version == 1

    cache.create("demo://1", attrs={"project": "alpha", "batch": 1, "score": 0.95}, status=Status.READY.value)
    second = cache.create("demo://2", attrs={"project": "alpha", "batch": 2, "score": 0.71}, status=Status.READY.value)
    assert cache.by_attrs({"project": "alpha", "batch": 2}) == {second.id}
    assert cache.search(uri="demo://2", status=Status.READY.value) == [second]

    item = cache.create(uri="demo://text-file", filename="hello.txt", status=Status.WRITE.value)
    with open(item.path, "w", encoding="utf-8") as f:
        f.write("hello\nworld\n")
    item.ready()
    opened = item.open(default_mode="r", encoding="utf-8", large=True)
    assert next(iter(opened.result)).strip() == "hello"
    opened.close()
    cache.close()
