"""Files whose URL names the digest of their bytes: no other bytes are served or kept."""

import hashlib
from collections.abc import Callable

from origin import Origin, Serve
from product import Proxy, blobs

DATA = b"\0\xffthe right bytes"
SHA1, SHA256, SHA512 = (hashlib.new(name, DATA).hexdigest() for name in ("sha1", "sha256", "sha512"))
BLAKE2B = hashlib.blake2b(DATA, digest_size=32).hexdigest()


def nix32(data: bytes) -> str:
    """A digest as Nix writes it: by its description, the bits from the last to the first, five at a time."""
    bits = [data[at // 8] >> at % 8 & 1 for at in range(len(data) * 8)]
    bits += [0] * (-len(bits) % 5)
    groups = [sum(bit << place for place, bit in enumerate(bits[at : at + 5])) for at in range(0, len(bits), 5)]
    return "".join("0123456789abcdfghijklmnpqrsvwxyz"[group] for group in reversed(groups))


NIX = nix32(hashlib.sha256(DATA).digest())
PACKAGES = f"/packages/{BLAKE2B[:2]}/{BLAKE2B[2:4]}/{BLAKE2B[4:]}"
OBJECTS = f"/repo/objects/{SHA256[:2]}/{SHA256[2:]}"
SHAPES = (
    f"/dists/x/main/binary-amd64/by-hash/SHA256/{SHA256}",
    f"/os/repodata/{SHA512}-primary.xml",
    f"/v2/library/x/blobs/sha256:{SHA256}",
    f"{PACKAGES}/foo-1-py3-none-any.egg",
    f"/nar/{NIX}.nar",
    f"{OBJECTS}.commit",
)


def test_bytes_that_the_url_does_not_name_are_left_for_those_of_the_next_source(
    origin: Origin, another: Origin, start: Callable[..., Proxy]
) -> None:
    proxy = start(origin.url, another.url)
    for path in SHAPES:
        origin.put(path, b"\0\xffthe wrong bytes")
        another.put(path, DATA)
        answer = proxy.fetch(path)
        assert (answer.status, answer.body) == (200, DATA), path
        assert proxy.get(path).cache_status == "package-cache; hit"
    assert len(blobs(proxy.cache)) == 1


def test_bytes_that_the_url_does_not_name_are_no_answer_of_the_only_source(
    origin: Origin, start: Callable[..., Proxy]
) -> None:
    proxy = start(origin.url)
    for path in SHAPES:
        origin.put(path, b"\0\xffthe wrong bytes")
        assert proxy.get(path).status == 502, path
        assert b"digest" in proxy.get(path).body
    assert not blobs(proxy.cache)
    large = bytes(300_000)
    path = f"/v2/x/blobs/sha256:{hashlib.sha256(large).hexdigest()}"
    origin.put(path, large[:-1] + b"\1")
    assert not proxy.get(path).whole
    origin.put(path, large)
    assert proxy.get(path).body == large
    assert proxy.get(path).cache_status == "package-cache; hit"
    assert proxy.get(path, {"Range": "bytes=5-6"}).body == large[5:7]


def test_coded_bytes_are_not_held_to_the_digest_of_those_inside(origin: Origin, start: Callable[..., Proxy]) -> None:
    """They are passed on as they are, with their coding."""
    path = SHAPES[0]
    origin.put(path, b"coded", Serve(fields=(("Content-Encoding", "br"),)))
    assert start(origin.url).get(path).body == b"coded"
