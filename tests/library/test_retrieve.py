"""A file in one line: downloaded once, found from then on, and never another one than the caller expects."""

import base64
import hashlib
import multiprocessing
import pickle
from pathlib import Path

import pytest
from origin import Origin, Serve

from package_cache import ArgumentError, DownloadManager, HashMismatch, retrieve
from package_cache.rules.http.digests import parse_digest

BODY, OTHER = b"a file\n" * 100, b"another file\n"

FORMS = {
    "sha256": f"sha256:{hashlib.sha256(BODY).hexdigest()}",
    "digits of sha256": hashlib.sha256(BODY).hexdigest().upper(),
    "digits of md5": hashlib.md5(BODY).hexdigest(),
    "md5": f"md5:{hashlib.md5(BODY).hexdigest()}",
    "sha1": f"SHA1:{hashlib.sha1(BODY).hexdigest()}",
    "sha512": f"sha-512:{hashlib.sha512(BODY).hexdigest()}",
    "blake2b": f"blake2b:{hashlib.blake2b(BODY).hexdigest()}",
    "as web pages have it": f"sha384-{base64.b64encode(hashlib.sha384(BODY).digest()).decode()}",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_downloaded_once(origin: Origin, tmp_path: Path, form: str) -> None:
    origin.put("/a.bin", BODY)
    paths = {retrieve(origin.url + "a.bin", FORMS[form], path=tmp_path / "cache") for _ in range(3)}
    assert [Path(path).read_bytes() for path in paths] == [BODY]
    assert len(origin.requests()) == 1


@pytest.mark.parametrize("form", FORMS)
def test_other_bytes_are_a_mismatch_with_both_values(origin: Origin, tmp_path: Path, form: str) -> None:
    origin.put("/a.bin", OTHER)
    wanted = parse_digest(FORMS[form])
    with pytest.raises(HashMismatch) as caught:
        retrieve(origin.url + "a.bin", FORMS[form], path=tmp_path / "cache")
    error = pickle.loads(pickle.dumps(caught.value))
    algorithm = wanted.algorithm
    assert error.expected == str(wanted)
    assert error.found == f"{algorithm}:{hashlib.new(algorithm, OTHER).hexdigest()}"
    assert (error.url, error.status, error.retryable) == (origin.url + "a.bin", 200, False)
    assert not list((tmp_path / "cache").glob("blobs-v1/*/*"))


@pytest.mark.parametrize("dest", ["path", False])
def test_it_holds_wherever_the_bytes_go(origin: Origin, tmp_path: Path, dest: str | bool) -> None:
    origin.put("/a.bin", OTHER)
    target: str | bool = str(tmp_path / "file") if dest else False
    with DownloadManager() as manager, pytest.raises(HashMismatch):
        manager.download(origin.url + "a.bin", target, hash=FORMS["sha1"])  # type: ignore[call-overload]
    assert not (tmp_path / "file").exists()


def test_a_file_in_the_cache_that_is_not_the_one_is_downloaded_again(origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.bin", OTHER)
    cache = tmp_path / "cache"
    assert Path(retrieve(origin.url + "a.bin", path=cache)).read_bytes() == OTHER
    origin.put("/a.bin", BODY)
    for form in ("md5", "sha256"):
        assert Path(retrieve(origin.url + "a.bin", FORMS[form], path=cache)).read_bytes() == BODY
    assert len(origin.requests()) == 2


def test_another_source_may_have_the_right_one(origin: Origin, another: Origin, tmp_path: Path) -> None:
    origin.put("/a.bin", OTHER)
    another.put("/a.bin", BODY)
    path = retrieve(origin.url + "a.bin", FORMS["sha512"], path=tmp_path / "cache", fallback_urls=[another.url + "a.bin"])
    assert Path(path).read_bytes() == BODY


def test_it_resumes_and_compares_the_whole(origin: Origin, tmp_path: Path) -> None:
    body = bytes(range(256)) * 4000
    origin.put("/a.bin", body, Serve(cut=500_000), Serve())
    path = retrieve(origin.url + "a.bin", f"md5:{hashlib.md5(body).hexdigest()}", path=tmp_path / "cache")
    assert Path(path).read_bytes() == body


@pytest.mark.parametrize("text", ["", "md5:12", "sha3:00", "0" * 63, "sha256-x", "sha256:" + "0" * 40, "xyz"])
def test_what_is_no_digest_is_refused_before_anything_is_asked(origin: Origin, tmp_path: Path, text: str) -> None:
    origin.put("/a.bin", BODY)
    with pytest.raises(ArgumentError, match="write sha256:HEX"):
        retrieve(origin.url + "a.bin", text, path=tmp_path / "cache")
    assert not origin.requests()


def test_two_digests_that_contradict_each_other_are_refused(origin: Origin, tmp_path: Path) -> None:
    with DownloadManager(tmp_path) as manager, pytest.raises(ArgumentError, match="give one of them"):
        manager.download(origin.url + "a.bin", hash=FORMS["sha256"], sha256="0" * 64)


def test_a_pool_retrieves(origin: Origin, tmp_path: Path) -> None:
    origin.put("/a.bin", BODY)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        several = [(origin.url + "a.bin", FORMS["sha256"])] * 4
        assert len(set(pool.starmap(_retrieved, [(*one, str(tmp_path / "cache")) for one in several]))) == 1
    assert len(origin.requests()) == 1


def _retrieved(url: str, digest: str, cache: str) -> str:
    return retrieve(url, digest, path=cache)


def test_the_user_has_a_cache(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    origin.put("/a.bin", BODY)
    assert Path(retrieve(origin.url + "a.bin")).is_relative_to(tmp_path)
