"""Descriptions of requests: what is the same request, what may be stored of it, and what is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from package_cache.errors import DescriptorError
from package_cache.library.downloads.descriptors import Descriptor, File, Headers
from package_cache.rules.library.naming import base_name, filename_of, suffix_of

URL = "http://mirror.example/a"
names = st.text(min_size=1, max_size=8)
queries = st.dictionaries(names, st.one_of(st.text(max_size=8), st.integers(), st.lists(st.text(max_size=4), min_size=1)))


@given(queries)
def test_a_query_in_the_url_and_one_beside_it_are_the_same_request(query: dict[str, object]) -> None:
    beside = Descriptor(URL, query=query)
    within = Descriptor(beside.url)
    assert within == beside
    assert within.identity() == beside.identity()
    assert within.baseurl == URL


@given(queries)
def test_the_order_of_a_query_does_not_matter(query: dict[str, object]) -> None:
    turned = dict(reversed(query.items()))
    assert Descriptor(URL, query=query).identity() == Descriptor(URL, query=turned).identity()


@given(queries, queries)
def test_other_queries_are_other_requests(one: dict[str, object], other: dict[str, object]) -> None:
    first, second = Descriptor(URL, query=one), Descriptor(URL, query=other)
    texts = [
        sorted((name, [value] if not isinstance(value, list) else value) for name, value in query.items())
        for query in (one, other)
    ]
    same = json.dumps(texts[0], default=str) == json.dumps(texts[1], default=str) or (
        [(name, [str(one) for one in values]) for name, values in texts[0]]
        == [(name, [str(one) for one in values]) for name, values in texts[1]]
    )
    assert (first.identity() == second.identity()) == same


def test_a_name_without_a_value_differs_from_one_with_an_empty_value() -> None:
    assert Descriptor(URL + "?x").identity() != Descriptor(URL + "?x=").identity()
    assert Descriptor(URL + "?x").url == URL + "?x"


def test_a_description_made_of_a_description_is_equal_to_it(tmp_path: Path) -> None:
    several = [
        Descriptor(URL + "?q=1", query={"a": [1, 2]}, headers={"X-A": "1"}, timeout=3, connecttimeout=2, cainfo=tmp_path),
        Descriptor(URL, query={"a": 1}, post=True),
        Descriptor(URL, query={"a": 1}, json=True, headers=["X-A: 1"]),
        Descriptor(URL, post={}),
        Descriptor(URL, post=b"\xff", proxies={}),
        Descriptor(URL, json=[1, {"a": None}]),
        Descriptor(URL, multipart={"a": "1", "f": File(tmp_path / "f")}),
        Descriptor("http://me:pw@mirror.example"),
    ]
    for one in several:
        assert Descriptor(**one) == one  # type: ignore[arg-type]
        assert dict(Descriptor(**one)) == dict(one)  # type: ignore[arg-type]


def test_missing_keys_raise_and_get_has_a_default() -> None:
    descriptor = Descriptor(URL)
    with pytest.raises(KeyError):
        descriptor["post"]
    assert descriptor.get("post", 7) == 7


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("HTTP://Mirror.Example:80/a/../b/./c?x=1#frag", "http://mirror.example/b/c?x=1"),
        ("http://mirror.example", "http://mirror.example/"),
        ("https://mirror.example:443/a b/%7e\u00e9%zz", "https://mirror.example/a%20b/%7e%C3%A9%25zz"),
        ("http://[::1]:8080/..", "http://[::1]:8080/"),
        (" http://mirror.example//x/.. ", "http://mirror.example//"),
        ("http://b\u00fccher.example/", "http://xn--bcher-kva.example/"),
    ],
)
def test_a_url_has_one_form(written: str, meant: str) -> None:
    assert Descriptor(written).url == meant


@pytest.mark.parametrize(
    "url",
    ["", "mirror.example/a", "file:///etc/passwd", "ftp://mirror.example/", "http://", "http://a b/", "http://x:port/", 7],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(DescriptorError, match="url="):
        Descriptor(url)


def test_the_name_of_a_file_is_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "request.json").write_text(json.dumps({"url": URL}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DescriptorError):
        Descriptor("request.json")


def test_a_description_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"url": URL, "multipart": {"f": {"file": "x.bin", "name": "y"}}}))
    (tmp_path / "b.toml").write_text(f'url = "{URL}"\ntimeout = 3\n[query]\na = 1\n')
    assert Descriptor.from_file(tmp_path / "a.json") == Descriptor(URL, multipart={"f": File("x.bin", name="y")})
    assert Descriptor.from_file(tmp_path / "b.toml") == Descriptor(URL, query={"a": 1}, timeout=3)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", "[1]", "no mapping"),
        ("a.json", '{"url": "http://mirror.example/", "quary": 1}', "unknown key 'quary'; known are url, query"),
        ("a.json", '{"query": {"a": 1}}', "url is missing"),
        ("a.ini", "", "ends with none of .json"),
        ("none.json", None, "No such file"),
    ],
)
def test_a_file_that_describes_nothing_is_refused(tmp_path: Path, name: str, text: str | None, complaint: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DescriptorError, match=complaint):
        Descriptor.from_file(tmp_path / name)


def test_credentials_make_another_request_and_are_not_stored() -> None:
    login, other, none = (Descriptor(f"http://{who}mirror.example/a") for who in ("me:secret@", "me:other@", ""))
    key = Descriptor(URL, headers={"X-Api-Key": "abc", "X-A": "1"})
    assert len({json.dumps(one.identity()) for one in (login, other, none, key)}) == 4
    for one in (login, key):
        stored = json.dumps([one.identity(), one.record(), one.url, repr(one)])
        assert "secret" not in stored
        assert "bWU6" not in stored
        assert "abc" not in stored
    assert key.record()["headers"] == {"X-A": "1"}


def test_what_is_stored_of_a_request_makes_it_again(tmp_path: Path) -> None:
    for one in (
        Descriptor(URL, query={"a": [1, 2]}, headers={"X-A": "1"}, timeout=3),
        Descriptor(URL, post={"a": [1, "\u20ac"]}),
        Descriptor(URL, post="text"),
        Descriptor(URL, json={"a": None}),
        Descriptor(URL, multipart={"a": "1", "f": File(tmp_path / "f")}),
    ):
        again = Descriptor.from_mapping(json.loads(json.dumps(one.record())))
        assert again.record() == one.record()
        assert again.method == one.method


def test_the_bytes_of_a_file_that_is_sent_make_the_request(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("1")
    one = Descriptor(URL, multipart={"f": File(path)}).identity()
    path.write_text("2")
    assert Descriptor(URL, multipart={"f": File(path)}).identity() != one


def test_a_path_is_sent_as_a_file_only_where_that_is_said(tmp_path: Path) -> None:
    assert Descriptor(URL, multipart={"f": "/etc/passwd"})["multipart"] == (("f", "/etc/passwd"),)
    with pytest.raises(DescriptorError, match="File"):
        Descriptor(URL, multipart={"f": Path("/etc/passwd")})


@pytest.mark.parametrize(
    "options",
    [
        {"post": {"a": 1}, "json": {"a": 1}},
        {"post": {"a": object()}},
        {"post": 7},
        {"json": float("nan")},
        {"json": {1, 2}},
        {"multipart": "x"},
        {"query": "a=1"},
        {"query": {"a": "\udcff"}},
        {"post": {"\udcff": "a"}},
        {"post": "\udcff"},
        {"json": ["\udcff"]},
        {"multipart": {"a": "\udcff"}},
        {"query": [("a", 1, 2)]},
        {"headers": {"X A": "1"}},
        {"headers": {"X-A": "1\r\nX-B: 2"}},
        {"headers": ["no colon"]},
        {"headers": {"Content-Length": "7"}},
        {"headers": "X-A: 1"},
        {"timeout": 0},
        {"timeout": "soon"},
        {"connecttimeout": True},
    ],
)
def test_what_cannot_be_sent_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(DescriptorError):
        Descriptor(URL, **options)  # type: ignore[arg-type]


def test_what_was_given_is_neither_changed_nor_kept() -> None:
    query, json_value = {"a": [1]}, {"a": [1]}
    descriptor = Descriptor(URL, query=query, json=json_value)
    json_value["a"].append(2)
    query["a"].append(2)
    assert descriptor["json"] == {"a": [1]}
    assert descriptor.url == URL + "?a=1"


def test_fields_of_an_answer_are_found_in_any_case() -> None:
    fields = Headers((("content-disposition", "x"), ("Link", "<a>"), ("link", "<b>")))
    assert fields["Content-Disposition"] == "x"
    assert fields["LINK"] == "<a>, <b>"
    assert "etag" not in fields
    assert list(fields) == ["content-disposition", "Link"]
    assert fields.get("etag") is None


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (None, "u.txt"),
        ("attachment", "u.txt"),
        ('attachment; filename="a=b;c.txt"', "a=b;c.txt"),
        ("attachment; filename=plain.txt", "plain.txt"),
        ('attachment; filename="a \\"b\\".txt"', 'a "b".txt'),
        ("attachment; filename*=UTF-8''%e2%82%ac%20rates.txt; filename=x", "\u20ac rates.txt"),
        ("attachment; filename=x.txt; filename*=iso-8859-1'en'%A3.txt", "\u00a3.txt"),
        ("attachment; filename*=utf-8''%ff.txt; filename=x.txt", "x.txt"),
        ('attachment; filename="../../e.json"', "e.json"),
        ('attachment; filename="C:\\\\dir\\\\e.json"', "e.json"),
        ('attachment; filename=".."', "u.txt"),
        ('attachment; filename="a\r\nb\u202etxt.exe"', "abtxt.exe"),
        ("attachment; FileName=x.txt", "x.txt"),
    ],
)
def test_the_name_that_a_server_gives_is_a_base_name(disposition: str | None, name: str) -> None:
    assert filename_of(disposition, "http://mirror.example/d/u.txt?x=1") == name


def test_a_url_without_a_name_gives_none() -> None:
    assert filename_of(None, "http://mirror.example/") is None
    assert filename_of(None, "http://mirror.example/%2e%2e") is None
    assert filename_of(None, "http://mirror.example/a%2Fb%20c.gz") == "b c.gz"


@given(st.text(max_size=300))
def test_a_base_name_is_never_a_path(text: str) -> None:
    name = base_name(text)
    assert "/" not in name
    assert "\0" not in name
    assert name not in (".", "..")
    assert len(name.encode()) <= 255


def test_two_suffixes_of_an_archive_are_one() -> None:
    assert [suffix_of(name) for name in ("a.tar.gz", "a.b.csv", ".bashrc", "a", "a.tar", None)] == [
        ".tar.gz",
        ".csv",
        "",
        "",
        ".tar",
        "",
    ]
