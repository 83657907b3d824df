"""Where damaged files go: kept for a while, so that a person can see what became of them."""

import os
import time
from contextlib import suppress
from pathlib import Path

from package_cache.errors import StoreError

KEPT_FILES = 16
KEPT_BYTES = 1 << 30
KEPT_SECONDS = 30 * 86400.0


class Quarantine:
    """The directory `quarantine-v1`. It holds the newest files, and no more of them than there is room for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def receive(self, blob: Path, body: bytes | None = None) -> Path | None:
        """Move a damaged blob here, or write down what its row had; where it is now.

        None if it was gone or is too large to be kept. Raises StoreError.
        """
        target = self._root / f"{blob.name}.{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        try:
            self._root.mkdir(exist_ok=True)
            if body is None:
                blob.rename(target)
            else:
                target.write_bytes(body)
            with suppress(OSError):  # it is kept for less long then
                os.utime(target)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot put the damaged {blob.name} aside: {error.strerror}") from error
        self.tidy(time.time())
        return target if target.exists() else None

    def tidy(self, now: float) -> None:
        """Remove what is here for long, and what is too much."""
        with suppress(FileNotFoundError):
            found = [(entry.stat(), entry.path) for entry in os.scandir(self._root)]
            total = 0
            for number, (status, path) in enumerate(sorted(found, key=lambda one: one[0].st_mtime, reverse=True)):
                total += status.st_size
                if number >= KEPT_FILES or total > KEPT_BYTES or status.st_mtime < now - KEPT_SECONDS:
                    Path(path).unlink(missing_ok=True)
