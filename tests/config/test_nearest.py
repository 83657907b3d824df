"""Names that a person may have meant: only near ones are suggested."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from package_cache.cli.commands import COMMANDS
from package_cache.config import NAMES
from package_cache.config.parsing import nearest
from package_cache.model import Preset

KEYS = [name.replace("_", "-") for name in NAMES]
PRESETS = [one.value for one in Preset]


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        ("prot", KEYS, "port"),
        ("sauce", KEYS, "source"),
        ("Max_Size", KEYS, "max-size"),
        ("wrokers", KEYS, "workers"),
        ("verb", KEYS, "verbose"),
        ("sources", KEYS, "source"),
        ("cache-dir", KEYS, "cache"),
        ("stall", KEYS, "stall-timeout"),
        ("max-size", ["name", "prefix", "max-file-size"], "max-file-size"),
        ("debain", PRESETS, "debian"),
        ("gcc", COMMANDS, "gc"),
        ("improt", COMMANDS, "import"),
        ("--jason", ["--help", "--json"], "--json"),
    ],
)
def test_a_near_name_is_suggested(given: str, known: list[str], meant: str) -> None:
    assert nearest(given, known) == meant


@pytest.mark.parametrize(
    ("given", "known"),
    [
        *((name, KEYS) for name in ("index", "upstream", "config", "user", "ssl", "x", "")),
        *((name, PRESETS) for name in ("ubuntu", "centos", "docker", "x")),
        *((name, COMMANDS) for name in ("remove", "status", "version", "frobnicate", "serve", "p")),
        ("fedora", []),
    ],
)
def test_what_is_not_near_is_not_suggested(given: str, known: list[str]) -> None:
    assert nearest(given, known) is None


def test_the_nearest_of_several_wins_and_the_first_of_equals() -> None:
    assert nearest("max-sizes", ["max-age", "max-file-size", "max-size"]) == "max-size"
    assert nearest("port", ["sort", "part"]) == "sort"


@settings(deadline=None)
@given(st.sampled_from(KEYS), st.data())
def test_a_slip_of_one_key_is_found(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(name) - 2))
    slipped = data.draw(
        st.sampled_from(
            [name[:at] + name[at + 1 :], name[:at] + "9" + name[at:], name[:at] + name[at + 1] + name[at] + name[at + 2 :]]
        )
    )
    assert nearest(slipped, [name]) == name
