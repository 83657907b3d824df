"""Puts entries into the registry of a cache that is not running, and times single look-ups in it.

    python entries.py fill CACHE NAME COUNT     COUNT more entries, each like that of the name
    python entries.py look CACHE NAME COUNT     prints the microseconds of a look-up among those, in no order

A process of its own: it is the only part of the benchmark that imports the product.
"""

import random
import sys
import time
from pathlib import Path

from package_cache.model import Key
from package_cache.storage.registry import NewVersion, Registry

_BATCH = 20_000
_LOOKS = 20_000


def key(number: int) -> Key:
    """The name of an entry that was filled in."""
    return Key(f"/filled/{number % 256:02x}/package-1.{number}.tar.xz")


def fill(registry: Registry, like: Key, count: int) -> None:
    """So many more entries in big transactions, with blobs that are not there."""
    model = registry.best(like)
    if model is None:
        raise SystemExit(f"{like} is not in the registry")
    digests = random.Random(count)
    for start in range(0, count, _BATCH):
        numbers = range(start, min(count, start + _BATCH))
        registry.commit_all(
            [NewVersion(key(one), f"{digests.getrandbits(256):064x}", model.representation) for one in numbers]
        )


def look(registry: Registry, count: int) -> float:
    """Microseconds of a look-up."""
    keys = [key(number) for number in random.Random(1).choices(range(count), k=_LOOKS)]
    begun = time.perf_counter()
    for one in keys:
        if registry.best(one) is None:
            raise SystemExit(f"{one} is not in the registry")
    return 1e6 * (time.perf_counter() - begun) / len(keys)


def main() -> None:
    what, cache, name, count = sys.argv[1], Path(sys.argv[2]), Key(sys.argv[3]), int(sys.argv[4])
    registry = Registry(cache / "registry-v1.db")
    if what == "fill":
        fill(registry, name, count)
    else:
        print(look(registry, count))
    registry.close()


if __name__ == "__main__":
    main()
