"""A plain user for the tests that root runs: what root may do to files hides faults that everybody else meets."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ANY = 65534


def plain_user() -> int:
    """The user that products are to be where root runs the tests; 0 where they are run by a plain user already."""
    if os.geteuid():
        return 0
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return _ANY


@contextmanager
def plain_ground() -> Iterator[Path]:
    """A directory within the with-block that the plain user comes to and may write, which those of root's tests are not."""
    place = Path(tempfile.mkdtemp(prefix="package-cache-plain-"))
    try:
        place.chmod(0o755)
        give(place)
        yield place
    finally:
        shutil.rmtree(place)


def give(*paths: Path) -> None:
    """Make files and directories, with all that is in them, the plain user's, in no other group."""
    user = plain_user()
    if user:
        for top in paths:
            for path in (top, *top.rglob("*")):
                os.chown(path, user, user, follow_symlinks=False)
