"""What each source said last, for commands to read: one small file a source, replaced as a whole.

Written by whichever process asked, and believed for nothing: it is news, not state. A disk that refuses it is no trouble.
"""

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Report:
    """What the source with that base said of `url` at `when`, in seconds of the epoch; until when it is asked last."""

    base: str
    url: str
    said: str
    when: float
    aside_until: float = 0.0


class Reports:
    """The files in one folder. Safe for any number of threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tell(self, base: str, url: str, said: str, aside: float) -> None:
        """A source said something just now; it is asked last for so many more seconds."""
        now = time.time()
        report = Report(base, url, said, now, now + aside if aside else 0.0)
        place = self._place(base)
        draft = place.with_suffix(f".{os.getpid()}-{threading.get_native_id()}")
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            draft.write_text(json.dumps(asdict(report)))
            draft.replace(place)

    def last(self, base: str) -> Report | None:
        """What was told of a source last, if anything."""
        try:
            return Report(**json.loads(self._place(base).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _place(self, base: str) -> Path:
        return self._folder / sha256(base.encode()).hexdigest()[:32]
