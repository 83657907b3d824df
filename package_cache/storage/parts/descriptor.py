"""Open files that several threads use."""

import os
import threading


class Descriptor:
    """An open file with several users: the last one that leaves closes it."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._users = 1
        self._guard = threading.Lock()

    def fileno(self) -> int:
        """The number, for calls that take one."""
        return self._number

    def share(self) -> "Descriptor":
        """The same, with one more user."""
        with self._guard:
            self._users += 1
        return self

    def close(self) -> None:
        """One user less."""
        with self._guard:
            self._users -= 1
            if self._users == 0:
                os.close(self._number)
