"""Files whose URL names the digest of their bytes: which URLs those are."""

import hashlib

import pytest

from package_cache.model import Preset, Target
from package_cache.rules.http.targets import parse_target
from package_cache.rules.repositories.names import digest_in_path, vouched_for

DATA = b"\0\xffthe right bytes"
SHA1, SHA256, SHA512 = (hashlib.new(name, DATA).hexdigest() for name in ("sha1", "sha256", "sha512"))
MD5 = hashlib.md5(DATA).hexdigest()
SHA384 = hashlib.sha384(DATA).hexdigest()
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
NAMED = (
    *((None, f"/dists/x/main/by-hash/{name}/{digest}") for name, digest in (("SHA256", SHA256), ("SHA512", SHA512))),
    *((Preset.DEBIAN, f"/dists/x/by-hash/{name}/{digest}") for name, digest in (("MD5Sum", MD5), ("SHA1", SHA1))),
    (None, f"/os/repodata/{SHA256}-primary.xml.gz"),
    (Preset.FEDORA, f"/os/repodata/{SHA1}-filelists.sqlite.bz2"),
    (Preset.FEDORA, f"/os/repodata/{SHA384}-primary.xml.zst"),
    (Preset.FEDORA, f"/os/repodata/{SHA512}-updateinfo.xml.zck"),
    (Preset.FEDORA, f"/os/repodata/{MD5}-comps-Everything.x86_64.xml"),
    (Preset.RAW, f"/v2/library/alpine/blobs/sha256:{SHA256}"),
    (None, f"/v2/library/alpine/blobs/sha256%3A{SHA256}"),
    (None, f"/v2/library/alpine/blobs/sha512:{SHA512}"),
    (None, f"/v2/library/alpine/blobs/sha256:{SHA256}?ns=registry.example"),
    *((None, f"{OBJECTS}.{kind}") for kind in ("commit", "dirtree", "dirmeta")),
    (None, f"/group/project.git/gitlab-lfs/objects/{SHA256}"),
    (None, f"/cache/sha256/{SHA256[:2]}/{SHA256}"),
    (None, f"/cache/md5/{MD5[:2]}/{MD5}"),
    (None, f"/nar/{NIX}.nar.xz"),
    (Preset.RAW, f"/nar/{NIX}.nar"),
    *((Preset.PYPI, f"{PACKAGES}/{name}") for name in ("foo-1-py3-none-any.whl", "foo-1.tar.gz", "foo-1.zip")),
    (None, f"/packages{PACKAGES}/foo-1.tar.gz"),
    (Preset.DEBIAN, f"/file/{SHA1}"),
)
UNNAMED = (
    # What stands beside a file, or is named by what is inside.
    (None, f"{PACKAGES}/foo-1-py3-none-any.whl.metadata"),
    (None, f"{PACKAGES}/foo-1.tar.gz.asc"),
    *((None, f"{OBJECTS}.{kind}") for kind in ("filez", "file", "commitmeta", "sizes2")),
    (None, f"/nar/{NIX}.nar.zst"),
    (None, f"/nar/{NIX}.ls"),
    (None, f"/nar/{NIX}-{NIX}.nar"),
    (None, f"/nar/z{NIX[1:]}.nar.xz"),
    (None, f"/{NIX[:32]}.narinfo"),
    (None, f"/summaries/{SHA256}.gz"),
    (None, f"/v2/library/alpine/manifests/sha256:{SHA256}"),
    # Digits too many or too few, or capitals.
    (None, f"/by-hash/SHA256/{SHA1}"),
    (None, f"/by-hash/SHA256/{SHA256}00"),
    (None, f"/by-hash/SHA256/{SHA256.upper()}"),
    (None, f"/by-hash/CRC/{MD5}"),
    (None, f"/by-hash/SHA256/{SHA256}.xz"),
    (None, f"/v2/x/blobs/sha256:{SHA1}"),
    (None, f"/repodata/{SHA256}0-primary.xml.gz"),
    (None, f"/repodata/{SHA256}-primary"),
    (None, "/repodata/repomd.xml"),
    (None, f"/cache/sha256/00/{SHA256}"),
    (None, f"/objects/{SHA1[:2]}/{SHA1[2:]}"),
    (None, f"/x.git/objects/{SHA256}"),
    # Shapes of others.
    (None, f"/file/{SHA1}"),
    (Preset.GENTOO, f"{PACKAGES}/foo-1.zip"),
    (Preset.DEBIAN, f"/repodata/{SHA256}-primary.xml.gz"),
    (Preset.NPM, f"/nar/{NIX}.nar.xz"),
    # A query may ask for anything.
    (None, f"/by-hash/SHA256/{SHA256}?part=2"),
    (None, f"/v2/x/blobs/sha256:{SHA256}?ns=x&y"),
)


@pytest.mark.parametrize("preset", [None, *Preset])
def test_url_names_the_digest_of_its_bytes(preset: Preset | None) -> None:
    for _, text in (row for row in NAMED if row[0] is preset):
        digest = digest_in_path(preset, parse_target(text)[1])
        assert digest is not None, text
        assert digest.is_of(DATA), text
        assert not digest.is_of(DATA + b"\0"), text


def test_digits_of_nix_are_read_as_nix_writes_them() -> None:
    """The well-known hash of nothing."""
    empty = digest_in_path(None, Target("/nar/0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73.nar"))
    assert empty is not None
    assert empty.is_of(b"")


@pytest.mark.parametrize("preset", [None, *Preset])
def test_url_that_only_looks_so_names_none(preset: Preset | None) -> None:
    named = [text for one, text in UNNAMED if one is preset and digest_in_path(preset, parse_target(text)[1])]
    assert named == []


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("/a/x-1.tar.gz.sig", "/a/x-1.tar.gz"),
        ("/a/x-1.tar.gz.sha256.asc", "/a/x-1.tar.gz"),
        ("/a/x-1.tar.gz", "/a/x-1.tar.gz"),
        ("/a/.sig", "/a/.sig"),
        ("/a/.sha256.asc", "/a/.sha256"),
    ],
)
def test_what_vouches_for_a_file_has_its_name_and_more(path: str, file: str) -> None:
    assert vouched_for(path) == file
