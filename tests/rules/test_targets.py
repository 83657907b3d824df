"""Request targets: what names the same thing, what names nothing, and the URLs that are asked."""

import re
from urllib.parse import unquote_to_bytes

import pytest
from examples import examples
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from package_cache.errors import BadRequest, RequestError
from package_cache.model import Target
from package_cache.rules.http.targets import MAX_TARGET, key_of, parse_target
from package_cache.rules.transfers.requests import raw_request
from package_cache.rules.transfers.ways import Origin, Way


def read(text: str) -> Target:
    return parse_target(text)[1]


def path(text: str) -> str:
    target = read(text)
    assert target.query is None
    return target.path


# Pieces that targets are made of, honest and not.
PIECES = st.one_of(
    st.sampled_from(["/", "/", "//", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", "%25", "%252e", "%00", "%7f"]),
    st.sampled_from(
        ["+", "%2B", "%2b", "~", "%7E", "%7e", ":", "@", ";", "?", "a=b", "&", "#", "%c0%ae", "%e2%82%ac", "%"]
    ),
    st.sampled_from(["distfiles", "foo-1.2.tar.xz", "[", "]", "|", "'", '"', "^", "`", "{", "<", "!", "*", "http://", "é"]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=5),
    st.text(max_size=3),
    st.builds("%{:02x}".format, st.integers(0, 255)),
)
TEXTS = st.builds("/{}".format, st.lists(PIECES, max_size=8).map("".join))


def accepted(text: str) -> Target:
    """The target, for a text that is one."""
    try:
        return read(text)
    except BadRequest:
        assume(condition=False)
        raise


@settings(max_examples=examples(100), deadline=None)
@given(st.one_of(TEXTS, st.text(), st.builds("http://{}{}".format, st.sampled_from(["mirror.example", "x", ""]), TEXTS)))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        target = read(text)
    except RequestError:
        return
    assert len(target.text) <= MAX_TARGET
    assert re.fullmatch(r"[\x21-\x7e]+", target.text)
    assert "#" not in target.text


@settings(max_examples=examples(100), deadline=None)
@given(TEXTS)
@example("/a/%2e%2e/b/../c/.")
@example("//x/../y")
@example("/%2525")
def test_normal_form_of_a_normal_form_is_itself(text: str) -> None:
    target = accepted(text)
    assert read(target.text) == target


@settings(max_examples=examples(100), deadline=None)
@given(TEXTS)
@example("/a/%2e%2e%2fb")
@example("/a/..%5cb")
@example("/a/b/%2e%2e/%2e%2e/c")
def test_no_target_climbs_or_holds_a_control_character(text: str) -> None:
    target = accepted(text)
    assert target.path.startswith("/")
    decoded = unquote_to_bytes(target.path)
    # However a source reads the path: decoded before it is split, after it, or with the slash of another system.
    for reading in (target.path.encode(), decoded, decoded.replace(b"\\", b"/")):
        assert not {b".", b".."} & set(reading.split(b"/"))
    assert not re.search(rb"[\x00-\x1f\x7f]", unquote_to_bytes(target.text))
    decoded.decode("utf-8")


@settings(max_examples=examples(100), deadline=None)
@given(TEXTS, st.sampled_from(["http://mirror.example", "http://mirror.example:8080/a%20b", "http://[::1]:80/x"]))
def test_a_source_is_asked_for_what_the_url_says(text: str, base: str) -> None:
    target = accepted(text)
    url = base + target.asked
    meant = "/" + base.partition("://")[2].partition("/")[2] if base.count("/") > 2 else ""
    wire = raw_request("GET", url, (), Way(Origin.of(url)))
    assert wire.text.partition(b"\r\n")[0] == f"GET {meant + target.text} HTTP/1.1".encode()


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4))
def test_every_spelling_of_a_name_is_one_key(names: list[str]) -> None:
    """Each character bare where HTTP allows it, or escaped in either case."""
    assume(all(not re.search(r"[\x00-\x1f\x7f/\\\ud800-\udfff]", name) and name not in (".", "..") for name in names))
    raw = [name.encode("utf-8") for name in names]
    bare = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@\"<>[]^`{|}")
    escaped = "".join("/" + "".join(f"%{byte:02x}" for byte in name) for name in raw)
    upper = "".join("/" + "".join(f"%{byte:02X}" for byte in name) for name in raw)
    plain = "".join("/" + "".join(chr(byte) if byte in bare else f"%{byte:02X}" for byte in name) for name in raw)
    assert path(escaped) == path(upper) == path(plain)
    assert [unquote_to_bytes(segment) for segment in path(plain)[1:].split("/")] == raw


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("/gtk+-3.tar.xz", "/gtk%2B-3.tar.xz"),
        ("/gtk%2B-3.tar.xz", "/gtk%2B-3.tar.xz"),
        ("/gtk%2b-3.tar.xz", "/gtk%2B-3.tar.xz"),
        ("/foo%7e1", "/foo~1"),
        ("/foo~1", "/foo~1"),
        ("/%66oo", "/foo"),
        ("/foo_1%253a2.deb", "/foo_1%253a2.deb"),
        ("/foo_1%253A2.deb", "/foo_1%253A2.deb"),
        ("/foo_1%3a2.deb", "/foo_1:2.deb"),
        ("/@scope%2fname", "/@scope%2Fname"),
        ("/@scope%2Fname", "/@scope%2Fname"),
        ("/a%20b", "/a%20b"),
        ("/%c3%a9", "/%C3%A9"),
        ("/%3f%23", "/%3F%23"),
        ("/", "/"),
        ("//", "//"),
        ("//mirror.example/x", "//mirror.example/x"),
        ("/a//b", "/a//b"),
        ("/a/", "/a/"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/./b", "/a/b"),
        ("/a/b/../c", "/a/c"),
        ("/a/%2e%2E/c", "/c"),
        ("/...", "/..."),
        ("/..a/.b", "/..a/.b"),
        ("/a%5Cb", "/a%5Cb"),
        ("/a\\b", "/a%5Cb"),
        ("/[x]", "/%5Bx%5D"),
    ],
)
def test_path_has_one_normal_form(text: str, normal: str) -> None:
    assert path(text) == normal


def test_escaped_slash_is_no_slash_and_an_escaped_percent_sign_stays_escaped() -> None:
    keys = {key_of(read(text)) for text in ("/a/b", "/a%2Fb", "/a%252Fb", "/a%25252Fb")}
    assert len(keys) == 4


def test_document_its_folder_and_a_file_in_it_have_keys_of_their_own() -> None:
    keys = {key_of(read(text)) for text in ("/x", "/x/", "/x/y", "/x//y", "/x?y", "/X")}
    assert len(keys) == 6


@pytest.mark.parametrize(
    "text",
    [
        "/..",
        "/../x",
        "/a/../../x",
        "/%2e%2e/x",
        "/.%2e/x",
        "/a/..%2fx",
        "/a/%2e%2e%2fx",
        "/..;/x",
        "/a/..;p=1/x",
        "/..%3b/x",
        "/..%20/x",
        "/..%5cx",
        "/a%2f..%2f..%2fx",
        "/a%2f.",
        "/..\\x",
    ],
)
def test_what_climbs_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        "/a%00b",
        "/a%0d%0ab",
        "/a%1f",
        "/a%7f",
        "/x?a=%00",
        "/x?a=%0a",
        "/a\x00",
        "/a\tb",
        "/a b",
        "/a\r\n",
        "/x?a b",
        "/x?a\x7f",
        "/%c0%ae%c0%ae/x",
        "/%c0%af",
        "/%ff",
        "/%ed%a0%80",
        "/é",
        "/x?é",
        "/%",
        "/%4",
        "/%zz",
        "/x?%",
        "/x?a=%g1",
        "/x#part",
        "/x?a#part",
        "",
        "*",
        "x",
        "mirror.example:80",
    ],
)
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        read(text)


def test_query_is_part_of_the_key() -> None:
    assert read("/x?b=1&a=2") == Target("/x", "b=1&a=2")
    assert read("/x?") == Target("/x")
    keys = {key_of(read(text)) for text in ("/x", "/x?a", "/x?a=", "/x?A", "/x?a&b", "/x?b&a", "/x%3Fa")}
    assert len(keys) == 7


@pytest.mark.parametrize(
    ("query", "normal"),
    [
        ("a=%7e%41", "a=~A"),
        ("a=%2f%2F", "a=%2F%2F"),
        ("a=b+c", "a=b+c"),
        ("a=b%2bc", "a=b%2Bc"),
        ("a[]=1", "a%5B%5D=1"),
        ("a%5b%5d=1", "a%5B%5D=1"),
        ('q="<x>"|{}^`\\', "q=%22%3Cx%3E%22%7C%7B%7D%5E%60%5C"),
        ("/?:@!$&'()*,;=", "/?:@!$&'()*,;="),
        ("a=../..", "a=../.."),
        ("a=%ff", "a=%FF"),
    ],
)
def test_query_has_one_normal_form(query: str, normal: str) -> None:
    assert read(f"/x?{query}").query == normal


def test_accept_keeps_keys_apart() -> None:
    target = Target("/x")
    keys = {key_of(target), key_of(target, "text/html"), key_of(target, "application/json")}
    assert len(keys) == 3
    with pytest.raises(BadRequest):
        read("/x#accept=text/html")


@pytest.mark.parametrize(
    ("text", "authority", "target"),
    [
        ("/x", None, Target("/x")),
        ("http://mirror.example/x", "mirror.example", Target("/x")),
        ("https://mirror.example:443/x", "mirror.example", Target("/x")),
        ("http://mirror.example:443/x", "mirror.example:443", Target("/x")),
        ("HTTP://Mirror.EXAMPLE:8080/x?y", "mirror.example:8080", Target("/x", "y")),
        ("http://mirror.example", "mirror.example", Target("/")),
        ("http://mirror.example.?y", "mirror.example", Target("/", "y")),
        ("http://localhost/a%2bb", "localhost", Target("/a%2Bb")),
        ("http://[::1]:4000/x", "[::1]:4000", Target("/x")),
        ("http://mirror.example//x", "mirror.example", Target("//x")),
    ],
)
def test_absolute_form_is_an_authority_and_a_path(text: str, authority: str | None, target: Target) -> None:
    assert parse_target(text) == (authority, target)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://mirror.example/x",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "http:///x",
        "http:/x",
        "http:x",
        "http://",
        "http://user@mirror.example/x",
        "http://other.example@mirror.example/x",
        "http://mirror.example:99999/x",
        "http://mirror.example:x/x",
        "http://[::1/x",
        "http://mirror.example/../x",
        "http://mirror.example#x",
        "\x01http://mirror.example/x",
        " http://mirror.example/x",
        "ht\ntp://mirror.example/x",
        "http://mirror\t.example/x",
    ],
)
def test_absolute_form_that_is_no_url_of_ours_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        read(text)


def test_longest_target_is_accepted_and_one_more_character_is_not() -> None:
    assert len(read("/" + "a" * (MAX_TARGET - 1)).text) == MAX_TARGET
    with pytest.raises(BadRequest, match="longer"):
        read("/" + "a" * MAX_TARGET)
    with pytest.raises(BadRequest, match="longer"):
        read("/x?" + "a" * MAX_TARGET)
    with pytest.raises(BadRequest, match="longer"):
        read("/" + "+" * (MAX_TARGET // 2))
