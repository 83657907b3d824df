"""The layout that a source says it has, and how long that is believed."""

from origin import Origin, Say

from package_cache.config import Timeouts
from package_cache.model import Source
from package_cache.rules.repositories.layouts import (
    FLAT,
    HASHED,
    Structure,
    layout_text,
)
from package_cache.upstream.fetcher import Fetcher
from package_cache.upstream.layouts import DAY, Layouts
from package_cache.upstream.mirrors import Mirrors

# --- What sources say of their own ------------------------------------------------------------------------------------


def test_a_source_keeps_the_layout_that_it_told_as_long_as_it_tells_no_other(origin: Origin) -> None:
    now = [0.0]
    sources = (Source(origin.url.rstrip("/")),)
    fetcher = Fetcher(sources, Timeouts(), "test", "test", Mirrors(sources, lambda: now[0]))
    layouts = Layouts(fetcher.open, lambda: now[0])
    folder, other = f"{origin.url}distfiles/", Structure("filename-hash", "SHA512", (8, 8))
    asked = 0

    def places(*, known: bool, after: float) -> tuple[str, ...]:
        """Where a file is looked for some seconds later, when the source was asked once more."""
        nonlocal asked
        now[0], asked = now[0] + after, asked + 1
        for again in range(3):
            assert layouts.learn(folder) is (known or again > 0)
        assert len(origin.requests()) == asked
        return tuple(url.removeprefix(folder) for url in layouts.urls(folder, "a.tar"))

    guesses = (FLAT.path("a.tar"), HASHED.path("a.tar"))
    assert tuple(url.removeprefix(folder) for url in layouts.urls(folder, "a.tar")) == guesses
    origin.put("/distfiles/layout.conf", b"", Say(503))
    assert places(known=False, after=0) == guesses
    origin.put("/distfiles/layout.conf", layout_text([other]).encode())
    assert places(known=True, after=31) == (other.path("a.tar"),)
    origin.put("/distfiles/layout.conf", b"", Say(503))
    assert places(known=False, after=DAY + 1) == (other.path("a.tar"),)
    del origin.things["/distfiles/layout.conf"]
    assert places(known=True, after=31) == guesses
    origin.put("/distfiles/layout.conf", layout_text([Structure("content-hash", "SHA512", (8,))]).encode())
    assert places(known=True, after=301) == guesses
    origin.put("/distfiles/layout.conf", layout_text([HASHED, FLAT]).encode())
    assert places(known=True, after=301) == (HASHED.path("a.tar"), "a.tar")
    fetcher.close()
