"""What holds for the paths of a repository: rules in order, globs, presets, and how long an answer is good."""

import math
import re
import string
import time
from dataclasses import replace
from urllib.parse import quote

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from package_cache.config.globs import glob_pattern
from package_cache.config.repositories import parse_fresh
from package_cache.model import Fields, Freshness, Preset, Repository, Representation, Rule, Target
from package_cache.rules.http import caching
from package_cache.rules.http.caching import Demand
from package_cache.rules.http.fields import format_date
from package_cache.rules.http.targets import parse_target
from package_cache.rules.repositories.freshness import CONFIRMED, RepositoryPolicy
from package_cache.rules.repositories.presets import Row, rows_of

NOW = 1_700_000_000.0
HEX = "0123456789abcdef" * 4


def policy(*rules: tuple[str, str], preset: Preset | None = None, largest: int | None = None) -> RepositoryPolicy:
    """What holds in a repository with these globs and words."""
    made = tuple(Rule(match, parse_fresh(fresh)) for match, fresh in rules)
    return RepositoryPolicy(Repository("one", (), preset=preset, rules=made, largest=largest))


def target(text: str) -> Target:
    return parse_target(text)[1]


def head(*fields: tuple[str, str], received: float = NOW, size: int | None = 10) -> Representation:
    return Representation(fields, size, "http://mirror.example/x", received)


# --- Globs ------------------------------------------------------------------------------------------------------------


def matches(glob: str, path: str) -> bool:
    """Slowly, by the words of the documentation."""
    return _matches(f"**/{glob}" if "/" not in glob else glob.removeprefix("/"), path[1:], begins=True)


def _matches(glob: str, text: str, *, begins: bool) -> bool:
    if not glob:
        return not text
    if glob.startswith("**/") and begins:
        after = [text[at + 1 :] for at, one in enumerate(text) if one == "/"]
        return any(_matches(glob[3:], rest, begins=True) for rest in [text, *after])
    if glob.startswith("**"):
        return any(_matches(glob[2:], text[at:], begins=False) for at in range(len(text) + 1))
    if glob[0] == "*":
        longest = len(text.partition("/")[0])
        return any(_matches(glob[1:], text[at:], begins=False) for at in range(longest + 1))
    closing = glob.find("]", 3 if glob.startswith("[!") else 2) if glob.startswith("[") else 0
    token = glob[: closing + 1]
    return bool(text) and _is_one(token, text[0]) and _matches(glob[len(token) :], text[1:], begins=token == "/")


def _is_one(token: str, one: str) -> bool:
    if token == "?":
        return one != "/"
    if len(token) == 1:
        return token == one
    inner, out = (token[2:-1], True) if token[1] == "!" else (token[1:-1], False)
    found = False
    while inner:
        is_range = inner[1:2] == "-" and len(inner) > 2
        found |= inner[0] <= one <= inner[2 if is_range else 0]
        inner = inner[3 if is_range else 1 :]
    return one != "/" and found is not out


GLOBS = st.lists(st.sampled_from(["a", "b", "/", "*", "**", "?", ".", "[ab]", "[!a]", "[]b]", "[a-c.]", "**/"]), min_size=1)
PATHS = st.text("ab/.", max_size=12).map("/{}".format)


@settings(max_examples=examples(200), deadline=None)
@given(GLOBS.map("".join), PATHS)
def test_a_glob_matches_what_its_words_say(glob: str, path: str) -> None:
    assert bool(glob_pattern(glob).fullmatch(path)) is matches(glob, path)


@settings(max_examples=examples(200), deadline=None)
@given(st.text(string.punctuation + "ab09\n\u00e9", min_size=1, max_size=12), st.text("ab/-[]^!&|~\\\n", max_size=8))
def test_any_text_is_a_glob_or_refused(glob: str, path: str) -> None:
    """With warnings as errors, as all tests run: expressions have corners of which Python warns."""
    try:
        pattern = glob_pattern(glob)
    except ValueError:
        return
    pattern.fullmatch(f"/{path}")


@pytest.mark.parametrize(
    ("glob", "right", "wrong"),
    [
        ("*.iso", ("/a.iso", "/x/y/a.iso", "/.iso"), ("/a.iso/b", "/a.iso2", "/aiso")),
        ("Release", ("/Release", "/dists/x/Release"), ("/dists/Release.gpg", "/Release/x")),
        ("/*.iso", ("/a.iso",), ("/x/a.iso",)),
        ("x/*.iso", ("/x/a.iso",), ("/y/x/a.iso", "/x/y/a.iso")),
        ("/x/**", ("/x/", "/x/a", "/x/a/b"), ("/x", "/y/x/a")),
        ("**", ("/", "/a", "/a/b/"), ()),
        ("/a/**/b", ("/a/b", "/a/x/b", "/a/x/y/b"), ("/ab", "/a/xb", "/a/b/c")),
        ("/a**/b", ("/a/b", "/ax/b", "/ax/y/b"), ("/ab", "/axb")),
        ("/v?/x", ("/v1/x",), ("/v/x", "/v12/x", "/v//x")),
        ("/v[0-9]", ("/v1",), ("/va", "/v/", "/v[0-9]")),
        ("/v[!0-9]", ("/va",), ("/v1", "/v/")),
        ("[", ("/[",), ("/x",)),
        ("a+b (1).x", ("/a+b (1).x",), ("/aab (1).x",)),
    ],
)
def test_globs_as_people_write_them(glob: str, right: tuple[str, ...], wrong: tuple[str, ...]) -> None:
    pattern = glob_pattern(glob)
    assert [path for path in right if not pattern.fullmatch(path)] == []
    assert [path for path in wrong if pattern.fullmatch(path)] == []


@pytest.mark.parametrize("glob", ["", "[]", "[!]", "[z-a]"])
def test_what_is_no_glob_is_refused(glob: str) -> None:
    with pytest.raises(ValueError, match="glob"):
        glob_pattern(glob)


def test_a_long_path_makes_no_long_search() -> None:
    """Clients choose paths; to try every place for every star would cost hours."""
    began = time.process_time()
    for glob in ("*-*-*.iso", "**/*a*a/**/*-*b.c", "*a*a*a*a*a*b", "/**-*-*.iso", "/**/a/**/-/**/a/**/b", "a*" * 40 + "b"):
        pattern = glob_pattern(glob)
        for segment in ("-", "a", "-a", "a/", "-/", "a-/"):
            pattern.fullmatch("/" + segment * (8000 // len(segment)))
    assert time.process_time() - began < 10


# --- Rules ------------------------------------------------------------------------------------------------------------


def test_the_first_rule_that_matches_holds_and_comes_before_the_preset() -> None:
    one = policy(("*.iso", "5m"), ("/dists/**", "immutable"), ("**", "never"), preset=Preset.DEBIAN)
    for path, text in (("/dists/x.iso", "5m"), ("/dists/InRelease", "immutable"), ("/pool/a.deb", "never")):
        assert one.at(target(path)).freshness().text == text
        assert one.at(target(path)).freshness("text/html").text == text
        assert one.at(target(f"{path}?query")).freshness().text == text
    assert one.at(target("/x.iso")).decided_by() == "the rule for *.iso in the repository one"


def test_a_rule_is_matched_against_the_decoded_path() -> None:
    one = policy(("gtk+ é.tar", "never"))
    assert one.at(target("/x/gtk%2B%20%c3%a9.tar")).freshness().how is Freshness.NEVER
    assert one.at(target("/x/gtk+%20%C3%A9.tar")).freshness().how is Freshness.NEVER


def test_what_no_rule_matches_is_for_the_preset() -> None:
    one = policy(("*.iso", "5m"), preset=Preset.DEBIAN)
    assert one.at(target("/dists/InRelease")).freshness().how is Freshness.REVALIDATE
    assert one.at(target("/pool/a_1.deb")).freshness().how is Freshness.IMMUTABLE


def test_a_size_and_a_freshness_may_come_from_two_rules() -> None:
    rules = (Rule("*.iso", None, 100), Rule("*", parse_fresh("never")), Rule("*.iso", parse_fresh("5m"), 200))
    one = RepositoryPolicy(Repository("one", (), rules=rules, largest=50))
    assert (one.at(target("/a.iso")).freshness().text, one.at(target("/a.iso")).largest) == ("never", 100)
    assert one.at(target("/a.tar")).largest == 50


def test_a_file_that_is_too_large_is_refused_by_its_length() -> None:
    one = policy(largest=10)
    assert one.at(target("/a.tar")).refusal(head(size=10)) is None
    assert one.at(target("/a.tar")).refusal(head(size=None)) is None
    told = one.at(target("/a.tar")).refusal(head(size=11))
    assert told == "it has 11 bytes, and no more than 10 are stored of a file there"


# --- Presets ----------------------------------------------------------------------------------------------------------

KEPT, ASKED, SAID = Freshness.IMMUTABLE, Freshness.REVALIDATE, Freshness.HTTP
PRESETS = {
    Preset.GENTOO: (
        ("/distfiles/foo-1.tar.xz", KEPT),
        ("/distfiles/layout.conf", ASKED),
        ("/binpkgs/Packages", ASKED),
        ("/binpkgs/app/foo/foo-1-1.gpkg.tar", KEPT),
        ("/binpkgs/app/foo-1.gpkg.tar", ASKED),
        ("/snapshots/portage-latest.tar.xz", ASKED),
    ),
    Preset.DEBIAN: (
        ("/dists/x/InRelease", ASKED),
        ("/dists/x/main/binary-amd64/Packages.xz", ASKED),
        (f"/dists/x/main/by-hash/SHA256/{HEX}", KEPT),
        ("/pool/f/foo_1_amd64.deb", KEPT),
    ),
    Preset.PYPI: (
        ("/simple/foo/", ASKED),
        ("/simple/socket.io/", ASKED),
        ("/simple/socket.io", ASKED),
        (f"/packages/ab/{HEX}/foo-1-py3-none-any.whl", KEPT),
    ),
    Preset.NPM: (
        ("/lodash.merge", ASKED),
        ("/socket.io", ASKED),
        ("/@scope%2fname", ASKED),
        ("/@scope%2fname.js", ASKED),
        ("/@scope/name.js", ASKED),
        ("/-/package/lodash.merge/dist-tags", ASKED),
        ("/lodash.merge/-/lodash.merge-4.6.2.tgz", KEPT),
        ("/@scope/name/-/name-1.0.0-beta.1.tgz", KEPT),
        ("/@scope%2fname/-/name-1.0.0.tgz", KEPT),
        ("/foo.tgz", ASKED),
    ),
    Preset.ARCH: (
        ("/core/os/x86_64/core.db", ASKED),
        ("/core/os/x86_64/core.files.tar.gz.sig", ASKED),
        ("/core/os/x86_64/foo-1:1-1-x86_64.pkg.tar.zst", KEPT),
    ),
    Preset.FEDORA: (
        ("/os/repodata/repomd.xml", ASKED),
        (f"/os/repodata/{HEX}-primary.xml.zst", KEPT),
        ("/os/Packages/f/foo-1-1.x86_64.rpm", KEPT),
    ),
    Preset.ALPINE: (("/v3/main/x86_64/APKINDEX.tar.gz", ASKED), ("/v3/main/x86_64/foo-1-r0.apk", KEPT)),
    Preset.RAW: (("/", SAID), ("/a.tar", SAID), ("/index.html", SAID), ("/x/InRelease", SAID)),
}


@pytest.mark.parametrize(("preset", "path", "how"), [(one, *row) for one, rows in PRESETS.items() for row in rows])
def test_each_preset_knows_its_indexes_and_its_packages(preset: Preset, path: str, how: Freshness) -> None:
    assert policy(preset=preset).at(target(path)).freshness().how is how


def test_each_preset_has_a_table_of_its_own() -> None:
    assert set(PRESETS) == set(Preset)
    for preset in Preset:
        assert rows_of(preset)
        assert rows_of(preset) != rows_of(None)
    # What another one takes for an index is a file like any other here.
    assert policy(preset=Preset.PYPI).at(target("/x/core-1.db")).freshness().how is KEPT
    assert policy(preset=Preset.ARCH).at(target("/simple/x-1.whl")).freshness().how is KEPT
    assert policy().at(target("/x/core-1.db")).freshness().how is ASKED


ROWS = sorted({row for preset in (None, *Preset) for row in rows_of(preset)}, key=lambda row: row.pattern.pattern)
PATH = string.ascii_letters + string.digits + "-._~!$&'()*,;=:@/%"


@settings(max_examples=examples(200), deadline=None)
@given(st.data(), st.sampled_from(ROWS))
def test_each_path_that_a_row_matches_has_one_of_its_words(data: st.DataObject, row: Row) -> None:
    # What takes all it can, and gives nothing back, is not known to what makes examples.
    pattern = re.compile(row.pattern.pattern.replace("*+", "*"))
    path = "/" + data.draw(st.from_regex(pattern, alphabet=PATH))
    words = set(re.findall("[a-z]+", path.lower()))
    assert row.pattern.search(path) is None or not row.words or not words.isdisjoint(row.words)


def test_documents_are_asked_for_again_but_where_the_source_alone_decides() -> None:
    for preset in Preset:
        for path, kind in (("/a.tar", "text/html"), ("/a.tar", "application/json; x=y"), ("/a.tar?query", None)):
            how = policy(preset=preset).at(target(path)).freshness(kind).how
            assert how is (SAID if preset is Preset.RAW else ASKED)
    assert policy(preset=Preset.RAW).at(target("/a?b")).decided_by("text/html") == "the preset raw leaves it to the source"
    assert policy(preset=Preset.NPM).at(target("/lodash.merge")).decided_by() == "it is no tarball"
    assert policy(preset=Preset.NPM).at(target("/x")).decided_by("application/vnd.npm+json").startswith("its type is ")


@settings(max_examples=examples(100), deadline=None)
@given(
    st.sampled_from([None, *Preset]),
    st.text(),
    st.none() | st.text(),
)
def test_any_path_has_a_freshness_and_a_reason(preset: Preset | None, text: str, kind: str | None) -> None:
    one, where = policy(("*.iso", "5m"), preset=preset), Target("/" + quote(text))
    assert one.at(where).freshness(kind) == one.at(where).freshness(kind)
    assert one.at(where).decided_by(kind)


# --- How long ---------------------------------------------------------------------------------------------------------


def test_each_word_says_how_long_an_answer_is_good() -> None:
    where = target("/a.tar")
    for word, until in (
        ("immutable", math.inf),
        ("revalidate", NOW),
        ("5m", NOW + 300),
        ("1d", NOW + 86400),
        ("never", NOW),
    ):
        one = policy(("*", word))
        assert one.at(where).good_until(head()) == until
        assert one.at(where).is_for_all(head())
        assert one.at(where).may_be_stale(head(("Cache-Control", "must-revalidate")))
    assert policy(("*", "never")).at(where).refusal(head()) == "its rule is never"


def test_a_time_is_counted_from_when_the_answer_came_whatever_its_source_says() -> None:
    fields = (("Cache-Control", "no-store, max-age=0"), ("Age", "4000"), ("Expires", "0"))
    one = policy(("*", "5m"))
    assert one.at(target("/a")).good_until(head(*fields)) == NOW + 300
    assert one.at(target("/a")).refusal(head(*fields)) is None


def test_a_document_is_good_for_as_long_as_it_says_and_a_minute_at_least() -> None:
    one, where = policy(("*", "json-metadata")), target("/a.json")
    assert one.at(where).good_until(replace(head(), good_until=NOW + 500)) == NOW + 500
    assert one.at(where).good_until(replace(head(), good_until=NOW - 500)) == NOW + 60
    assert one.at(where).good_until(head()) == NOW


def test_what_varies_with_everything_is_asked_for_each_time() -> None:
    for value in ("*", "Accept, *", " * "):
        for word in ("immutable", "5m", "http"):
            answer = head(("Cache-Control", "max-age=60"), ("Vary", value))
            assert policy(("*", word)).at(target("/a")).good_until(answer) == NOW
    assert policy(("*", "5m")).at(target("/a")).good_until(head(("Vary", "Accept"))) == NOW + 300


def dated(seconds: float) -> str:
    return format_date(NOW + seconds)


LIFETIMES: tuple[tuple[Fields, float], ...] = (
    ((), 0),
    ((("Cache-Control", "max-age=60"),), 60),
    ((("cache-control", "MAX-AGE=60"),), 60),
    ((("Cache-Control", "public, max-age=60"),), 60),
    ((("Cache-Control", "public"), ("Cache-Control", "max-age=60")), 60),
    ((("Cache-Control", 'max-age="60"'),), 60),
    ((("Cache-Control", " max-age = 60 ,, "),), 60),
    ((("Cache-Control", "max-age=60, s-maxage=10"),), 10),
    ((("Cache-Control", "s-maxage=10"), ("Expires", dated(60))), 10),
    ((("Cache-Control", "max-age=60"), ("Expires", dated(-60))), 60),
    # Of directives that are there twice, the first counts (section 4.2.1).
    ((("Cache-Control", "max-age=60, max-age=10"),), 60),
    ((("Cache-Control", "max-age=10"), ("Cache-Control", "max-age=60")), 10),
    # What is within quotes is no directive.
    ((("Cache-Control", 'x="no-cache, max-age=9", max-age=60'),), 60),
    # A number too large to be one is for ever, what is no number makes it stale (sections 1.2.2, 4.2.1).
    ((("Cache-Control", f"max-age={'9' * 30}"),), 999_999_999_999_999),
    *(((("Cache-Control", f"max-age={text}"),), 0) for text in ("", "x", "-1", "1.5", "\u0664", "60 s", "0x10")),
    ((("Cache-Control", "max-age"), ("Expires", dated(60))), 0),
    ((("Cache-Control", "max-age=0"), ("Expires", dated(60))), 0),
    # Age, and a date of long ago (section 4.2.3).
    ((("Cache-Control", "max-age=60"), ("Age", "20")), 40),
    ((("Cache-Control", "max-age=60"), ("Age", "80")), 0),
    ((("Cache-Control", "max-age=60"), ("Age", "much")), 60),
    ((("Cache-Control", "max-age=60"), ("Date", dated(-20))), 40),
    ((("Cache-Control", "max-age=60"), ("Date", dated(-20)), ("Age", "30")), 30),
    ((("Cache-Control", "max-age=60"), ("Date", dated(20))), 60),
    # Expires is measured from the date of the answer (section 4.2.1), and what is no date is in the past (5.3).
    ((("Expires", dated(60)),), 60),
    ((("Expires", dated(90)), ("Date", dated(30))), 60),
    ((("Expires", dated(60)), ("Date", dated(-30))), 60),
    ((("Expires", dated(-60)),), 0),
    *(((("Expires", text), ("Last-Modified", dated(-1000))), 0) for text in ("0", "-1", "now", "")),
    # A tenth of how long it has not changed (section 4.2.2), and a day at most.
    ((("Last-Modified", dated(-1000)),), 100),
    ((("Last-Modified", dated(-1000)), ("Date", dated(0)), ("Cache-Control", "public")), 100),
    ((("Last-Modified", dated(-1e8)),), 86400),
    ((("Last-Modified", dated(1000)),), 0),
    ((("Last-Modified", "then"),), 0),
    # no-cache (section 5.2.2.4), also of some fields only.
    ((("Cache-Control", "no-cache, max-age=60"),), 0),
    ((("Cache-Control", 'no-cache="Set-Cookie", max-age=60'),), 0),
    ((("Cache-Control", "max-age=60, must-revalidate"),), 60),
)


@pytest.mark.parametrize(("fields", "seconds"), LIFETIMES)
def test_an_answer_is_good_for_as_long_as_its_source_says(fields: Fields, seconds: float) -> None:
    assert caching.good_until(head(*fields)) == pytest.approx(NOW + seconds, abs=1e-3)
    assert policy(("*", "http")).at(target("/a")).good_until(head(*fields)) == pytest.approx(NOW + seconds, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "private", "strict"),
    [
        (None, False, False),
        ("max-age=60", False, False),
        ("no-store", True, False),
        ("max-age=60, PRIVATE", True, False),
        ('private="x-user"', True, False),
        ('x="no-store, private"', False, False),
        ("must-revalidate", False, True),
        ("proxy-revalidate", False, True),
        ("s-maxage=5", False, True),
        ("no-cache", False, True),
        ("no-storeroom, privateer", False, False),
    ],
)
def test_what_a_source_forbids_is_not_done(value: str | None, private: bool, strict: bool) -> None:
    answer = head(*([("Cache-Control", value)] if value else []))
    one, where = policy(("*", "http")), target("/a")
    assert (one.at(where).refusal(answer) is not None) is private
    assert one.at(where).may_be_stale(answer) is not strict
    assert caching.is_private(answer) is private


@pytest.mark.parametrize(
    ("cache_control", "pragma", "seconds"),
    [
        (None, None, None),
        ("no-cache", None, 0),
        ("NO-CACHE, max-age=60", None, 0),
        ("max-age=60", None, 60),
        ("max-age=0", None, 0),
        ('max-age="60"', None, 60),
        ("max-age=x", None, 0),
        ("min-fresh=5", None, None),
        (None, "no-cache", 0),
        ("max-age=60", "no-cache", 60),
        ("", "no-cache", None),
    ],
)
def test_a_client_may_ask_for_something_newer(cache_control: str | None, pragma: str | None, seconds: float | None) -> None:
    fields = {"cache-control": cache_control, "pragma": pragma}
    given = {name: value for name, value in fields.items() if value is not None}
    demand = policy(("*", "http")).at(target("/a")).demanded(given)
    assert (None if demand is None or demand.age == math.inf else demand.age) == seconds
    for word in ("immutable", "5m", "json-metadata"):
        # One that wants it confirmed gets that, but not again and again.
        assert policy(("*", word)).at(target("/a")).demanded(given) == (Demand(CONFIRMED) if seconds == 0 else None)
    for word in ("revalidate", "never"):
        assert policy(("*", word)).at(target("/a")).demanded(given) is None
    for path in (f"/by-hash/SHA256/{HEX}", "/org/foo/1.0/foo-1.0.jar"):
        assert policy().at(target(path)).demanded(given) is None


TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30)
VALUES = TEXTS | st.builds(
    "{}={}".format, st.sampled_from(["max-age", "s-maxage", "no-cache"]), TEXTS | st.integers().map(str)
)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["Cache-Control", "Expires", "Date", "Age", "Last-Modified"]), VALUES), max_size=4)
)
def test_no_field_makes_an_answer_good_before_it_came_or_for_ever(fields: list[tuple[str, str]]) -> None:
    until = caching.good_until(head(*fields))
    assert NOW <= until < math.inf


@pytest.mark.parametrize(
    ("until", "received", "fresh"),
    [
        (NOW, NOW - 10, True),
        (NOW - 1, NOW - 10, False),
        (NOW + 100, NOW + caching.AHEAD, True),
        (NOW + 100, NOW + caching.AHEAD + 1, False),
        (NOW + 10, NOW + 10, False),
        (math.inf, NOW + 10_000, True),
    ],
)
def test_what_came_at_a_time_to_come_is_fresh_only_within_what_clocks_differ_by(
    until: float, received: float, fresh: bool
) -> None:
    assert caching.is_fresh(until, received, NOW) is fresh
