"""What is measured of the library, or of what it takes the place of: one case of one of them, in a process of its own.

    python library_runs.py {new|cachedir} {items|search|import} DIRECTORY COUNT SECONDS

Prints figures as JSON. Runs under the interpreter of either, and so imports nothing else.
"""

import importlib
import json
import os
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

PACKAGES = {"new": "package_cache", "cachedir": "cachedir"}
_LOOKS = 20


def make_and_find(cache: Any, count: int, seconds: float) -> dict[str, float]:
    """Create an item, write its file, make it ready and find it, so many times or for so long: ms each."""
    begun = time.perf_counter()
    done = 0
    while done < count and time.perf_counter() - begun < seconds:
        uri, params = f"http://mirror.example/{done}", {"n": done}
        item = cache.create(uri=uri, params=params, attrs=attributes(done), status=1, ext="txt")
        with Path(item.path).open("w", encoding="ascii") as file:
            file.write(f"content {done}\n")
        item.ready()
        if cache.best(uri=uri, params=params).version != 1:
            raise SystemExit(f"{uri} was not found")
        done += 1
    return {"ms": 1000 * (time.perf_counter() - begun) / done, "done": done}


def attributes(number: int) -> dict[str, int | str | float]:
    return {"rows": number, "kind": f"kind {number % 100}", "score": number / 7}


def find(cache: Any, count: int) -> dict[str, float]:
    """Search by attributes among so many items: ms of each kind of search."""
    conditions: dict[str, dict[str, object]] = {
        "one": {"rows": count // 2},
        "ten": {"rows>=": count - 10},
        "both": {"kind": "kind 7", "rows<": 1000},
        "thousand": {"kind": "kind 7"},
    }
    if len(cache.search(attrs={"rows>=": count - 10})) != 10:
        raise SystemExit("not found")

    def search(wanted: dict[str, object]) -> None:
        cache.search(attrs=dict(wanted))

    figures = {name: median_ms(partial(search, wanted)) for name, wanted in conditions.items()}
    figures["numbers"] = median_ms(lambda: cache.by_attrs({"rows>=": count - 10}))
    return figures


def median_ms(act: Callable[[], object]) -> float:
    samples: list[float] = []
    begun = time.perf_counter()
    while len(samples) < 3 or (len(samples) < _LOOKS and time.perf_counter() - begun < 20):
        start = time.perf_counter()
        act()
        samples.append(1000 * (time.perf_counter() - start))
    return statistics.median(samples)


def fill_new(cache: Any, count: int) -> None:
    """Items in one transaction: made one by one they would take long, in the original half a day."""
    from package_cache.library.core import new_item  # noqa: PLC0415 - only where it is installed
    from package_cache.storage.items.table import _insert  # noqa: PLC0415

    core = cache._core
    with core.stores.registry.database.writing() as connection:
        for number in range(count):
            uri = f"http://mirror.example/{number}"
            _insert(connection, new_item(uri, {"n": number}, attributes(number), 3, "txt", None, None))


def fill_cachedir(cache: Any, count: int) -> None:
    """The rows that it would write itself, in one transaction."""
    cache.create("model", status=3, ext="txt")
    cache.con.close()
    with sqlite3.connect(cache.path) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(main)")]
        model = dict(zip(columns, connection.execute("SELECT * FROM main").fetchone(), strict=True))
        connection.execute("DELETE FROM main")
        for number in range(count):
            key = f"{number:032x}"
            row = model | {"id": number + 1, "item_id": key, "version_id": f"{key}-1"}
            connection.execute(f"INSERT INTO main VALUES ({', '.join('?' * len(columns))})", [row[one] for one in columns])
            for table, name, value in (
                ("int", "rows", number),
                ("varchar", "kind", f"kind {number % 100}"),
                ("float", "score", number / 7),
            ):
                insert = f"INSERT INTO attr_{table} (id, namespace, keyvar, name, value) VALUES (?, NULL, 0, ?, ?)"
                connection.execute(insert, (number + 1, name, value))
    connection.close()


def main() -> None:
    which, case, directory, count, seconds = (
        sys.argv[1],
        sys.argv[2],
        Path(sys.argv[3]),
        int(sys.argv[4]),
        float(sys.argv[5]),
    )
    os.chdir(directory)  # the original writes a folder of logs wherever it is imported
    begun = time.perf_counter()
    package = importlib.import_module(PACKAGES[which])
    cache_class = package.Cache
    figures = {"import": 1000 * (time.perf_counter() - begun)}
    if case != "import":
        place = str(directory / "cache")
        cache = cache_class(place)
        if case == "items":
            figures = make_and_find(cache, count, seconds)
        else:
            (fill_new if which == "new" else fill_cachedir)(cache, count)
            figures = find(cache_class(place), count)
    print("\n" + json.dumps(figures))


if __name__ == "__main__":
    main()
