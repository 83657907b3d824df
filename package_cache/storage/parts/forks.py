"""What a forked child must not take for its own: locks belong to the parent, and end with it."""

import os
from typing import Protocol
from weakref import ref


class Forgetful(Protocol):
    """Holds something that a child does not inherit."""

    def forget(self) -> None:
        """In a forked child: what was held is the parent's."""
        ...


def forget_in_children(holder: Forgetful) -> None:
    """Have the holder forget in each forked child, for as long as it lives."""
    known = ref(holder)

    def after() -> None:
        alive = known()
        if alive is not None:
            alive.forget()

    os.register_at_fork(after_in_child=after)
