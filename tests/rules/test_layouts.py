"""The layouts of Gentoo mirrors: from the name of a distfile to its path, and back."""

import hashlib
from urllib.parse import quote

import pytest
from examples import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from package_cache.rules.repositories.layouts import (
    FLAT,
    HASHED,
    Structure,
    flat_path,
    layout_text,
    parse_layout,
)

LENGTHS = {"BLAKE2B": 128, "BLAKE2S": 64, "SHA256": 64, "SHA512": 128, "SHA3_256": 64, "SHA3_512": 128}
LENGTHS |= {"SHA1": 40, "MD5": 32}
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40)


@st.composite
def hashed(draw: st.DrawFn, kind: str = "filename-hash") -> Structure:
    algorithm = draw(st.sampled_from(sorted(LENGTHS)))
    digits = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    assume(sum(digits) <= LENGTHS[algorithm])
    return Structure(kind, algorithm, tuple(4 * one for one in digits))


ANY = st.one_of(st.just(FLAT), hashed(), hashed("content-hash"))


def test_the_layout_of_gentoo_is_read_and_its_paths_are_right() -> None:
    assert parse_layout("[structure]\n0=filename-hash BLAKE2B 8\n") == (HASHED,)
    assert HASHED.path("portage-3.0.30.tar.bz2") == "6f/portage-3.0.30.tar.bz2"  # as Portage asks for it
    assert FLAT.path("portage-3.0.30.tar.bz2") == "portage-3.0.30.tar.bz2"


def test_each_cutoff_takes_the_next_digits() -> None:
    assert Structure("filename-hash", "SHA512", (8, 16, 4)).path("é+.tar") == "2b/8925/e/é+.tar"


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(ANY, max_size=5))
def test_what_is_written_is_read_again(structures: list[Structure]) -> None:
    assert parse_layout(layout_text(structures)) == tuple(structures)


@settings(max_examples=examples(100), deadline=None)
@given(NAMES, hashed())
def test_a_hashed_path_leads_back_to_its_name(name: str, structure: Structure) -> None:
    path = structure.path(name)
    assert path.endswith(f"/{name}")
    assert path.count("/") == len(structure.cutoffs)
    assume(sum(structure.cutoffs) >= 8)
    encoded = quote(name, safe="")
    assert flat_path(f"{path.removesuffix(name)}{encoded}") == encoded


@settings(max_examples=examples(100), deadline=None)
@given(st.text(max_size=40))
def test_a_path_is_its_last_name_or_stays_as_it_is(path: str) -> None:
    assert flat_path(path) in (path, path.rpartition("/")[2])


@pytest.mark.parametrize(
    "path",
    [
        "foo.tar.xz",
        "sub/foo.tar.xz",
        "00/foo.tar.xz",  # another hash
        "8/foo.tar.xz",  # one digit says nothing
        f"{hashlib.blake2b(b'foo.tar.xz').hexdigest()[:2].upper()}A/foo.tar.xz",
        f"{hashlib.blake2b(b'').hexdigest()[:2]}/",
        f"x/{HASHED.path('foo.tar.xz')}",
        "",
        "/",
    ],
)
def test_folders_that_no_hash_names_stay(path: str) -> None:
    assert flat_path(path) == path


def test_the_hash_is_of_the_decoded_name() -> None:
    folder = hashlib.blake2b(b"foo+bar").hexdigest()[:2]
    assert flat_path(f"{folder}/foo%2Bbar") == "foo%2Bbar"
    assert flat_path(f"{folder}/foo+bar") == "foo+bar"
    inner = hashlib.blake2b(b"b").hexdigest()[:2]
    assert flat_path(f"{inner}%2Fb") == f"{inner}%2Fb"


def test_unknown_structures_are_left_out_and_the_others_keep_their_order() -> None:
    text = """# a comment
[other]
0=flat
[structure]
0 = somehow new
1 = content-hash SHA512 8:8
2=filename-hash WHIRLPOOL 8
3=filename-hash BLAKE2B 7
4=filename-hash BLAKE2B 0
5=filename-hash MD5 128:4
6=filename-hash BLAKE2B
7=filename-hash BLAKE2B 8:x
8=filename-hash SHA512 8:16
9=flat
10=flat more
12=filename-hash BLAKE2B 8
"""
    content = Structure("content-hash", "SHA512", (8, 8))
    assert parse_layout(text) == (content, Structure("filename-hash", "SHA512", (8, 16)), FLAT)
    assert not content.by_name
    with pytest.raises(ValueError, match="content-hash"):
        content.path("x")


@pytest.mark.parametrize(
    "text", ["", "<html>no</html>", "0=flat", "[other]\n0=flat", "[structure\n0=flat", "[structure]\nx"]
)
def test_a_text_that_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is no layout\.conf: "):
        parse_layout(text)


@settings(max_examples=examples(100), deadline=None)
@given(st.one_of(st.text(), st.builds("[structure]\n{}".format, st.text())))
def test_any_text_is_a_layout_or_refused(text: str) -> None:
    try:
        found = parse_layout(text)
    except ValueError:
        return
    for structure in found:
        assert structure.path("x").endswith("x") or not structure.by_name
