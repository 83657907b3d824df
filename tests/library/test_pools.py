"""What passes between the processes of a pool: managers, caches, items, results, descriptors and errors."""

import inspect
import multiprocessing
import pickle
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from origin import Origin

import package_cache
from package_cache import Cache, Descriptor, DownloadError, DownloadManager
from package_cache.errors import PackageCacheError

METHODS = ("fork", "spawn", "forkserver")


def manager_in(cache: Path | None) -> DownloadManager:
    return DownloadManager(cache, proxies={}, progress=False, retries=1)


def all_below(kind: type[PackageCacheError]) -> Iterator[type[PackageCacheError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from all_below(one)


def made(kind: type[PackageCacheError]) -> PackageCacheError:
    """An error of a kind, with a value for each argument of its constructor."""
    values: dict[str, object] = {
        "problems": ["one", "two"],
        "status": 404,
        "retry_after": 7,
        "retryable": True,
        "again": True,
    }
    if not inspect.isfunction(kind.__init__):
        return kind("message")
    required = list(inspect.signature(kind.__init__).parameters.values())[1:]
    positional = [values.get(one.name, one.name) for one in required if one.kind is not one.KEYWORD_ONLY]
    named = {one.name: values.get(one.name, one.name) for one in required if one.kind is one.KEYWORD_ONLY}
    return kind(*positional, **named)


def test_every_error_says_the_same_in_another_process() -> None:
    for module in pkgutil.walk_packages(package_cache.__path__, "package_cache."):
        if not module.name.endswith(("__main__", "with_curl", "with_requests")):
            import_module(module.name)
    kinds = set(all_below(PackageCacheError))
    assert len(kinds) > 40
    for kind in kinds:
        error = made(kind)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.args, vars(again)) == (kind, str(error), error.args, vars(error)), kind


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_downloads_and_fails_and_shares(method: str, origin: Origin, tmp_path: Path) -> None:
    for name in ("a", "b"):
        origin.put(f"/{name}-1.tar", name.encode() * 1000)
    manager = manager_in(tmp_path / "cache")
    urls = [f"{origin.url}{name}-1.tar" for name in ("a", "b", "a", "b")]
    with multiprocessing.get_context(method).Pool(2) as pool:
        paths = pool.map(manager.download, urls)
        assert [Path(path).read_bytes() for path in paths] == [b"a" * 1000, b"b" * 1000] * 2
        results = pool.map(manager.fetch, urls)
        assert [result.verdict for result in results] == ["hit"] * 4
        assert [result.item.path for result in results if result.item] == paths
        with pytest.raises(DownloadError) as caught:
            pool.map(manager.download, [f"{origin.url}none"])
    assert (caught.value.status, caught.value.url, caught.value.retryable) == (404, f"{origin.url}none", False)
    assert sorted(one.target for one in origin.requests()) == ["/a-1.tar", "/b-1.tar", "/none"]


def test_a_cache_and_its_items_are_the_same_in_another_process(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    with cache.writing("uri") as file:
        file.write(b"bytes")
    items = [cache.best("uri"), cache.best("uri")]
    again, others = pickle.loads(pickle.dumps((cache, items)))
    assert again.dir == cache.dir
    assert others == items
    assert others[0]._core is others[1]._core
    assert Path(others[0].path).read_bytes() == b"bytes"
    assert again.best("uri") == items[0]


def test_a_descriptor_is_the_same_in_another_process() -> None:
    descriptor = Descriptor("http://mirror.example/a", query={"b": 1}, headers={"X-A": "b"}, post={"c": "d"})
    again = pickle.loads(pickle.dumps(descriptor))
    assert (again, again.headers, again.query) == (descriptor, descriptor.headers, descriptor.query)
    assert again.call("agent") == descriptor.call("agent")


def test_a_manager_without_a_cache_can_be_passed_on(origin: Origin) -> None:
    origin.put("/a", b"bytes")
    again = pickle.loads(pickle.dumps(manager_in(None)))
    assert again.download(f"{origin.url}a").getvalue() == b"bytes"
    again.close()
