"""What a plain user may do with files that are read-only, or of another user. Root has products be that user."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from plain import give, plain_ground, plain_user
from product import surroundings
from shell import Shell


@pytest.fixture
def ground() -> Iterator[Path]:
    with plain_ground() as place:
        yield place


def done(shell: Shell, *words: str | Path) -> str:
    """What a command of a plain user said, which succeeded."""
    ended = shell.run([str(word) for word in words], surroundings(), plain_user())
    assert (ended.returncode, ended.stderr) == (0, b""), ended
    return ended.stdout.decode()


def test_a_read_only_file_of_ones_own_is_linked_and_not_copied(shell: Shell, ground: Path) -> None:
    file = ground / "tree" / "x-1.0.tar"
    file.parent.mkdir()
    file.write_bytes(b"body")
    file.chmod(0o444)
    give(ground)
    done(shell, "import", file.parent, "--link", "--cache", ground / "cache")
    assert (file.stat().st_nlink, file.stat().st_mode & 0o777) == (2, 0o444)
