"""Which known name a person may have meant by one that is not known. None, rather than one that is merely the least far."""

from collections.abc import Iterable

_SHORTEST = 3
"""Letters from which on the beginning of a name is taken for it."""


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The name that is near `given`, if one is; of several the nearest, and of equally near ones the first.

    Near is: the same but for case, hyphens and underscores; a beginning, or what begins so (`verb`, `timeouts`); the same
    words and more (`max-size`, `max-file-size`); or at most a third of the letters wrong (`prot`, `sauce`), where the first
    one is right or only one is wrong: `centos` is not meant for `gentoo`.
    """
    name = _plain(given)
    ranked = ((_distance(name, _plain(one)), at, one) for at, one in enumerate(known))
    return min(((far, at, one) for far, at, one in ranked if far is not None), default=(0, 0, None))[2]


def _plain(name: str) -> str:
    return name.lower().lstrip("-").replace("_", "-")


def _distance(given: str, known: str) -> int | None:
    """How many letters are wrong; None if that is too many."""
    wrong = _edits(given, known)
    words, others = set(given.split("-")), set(known.split("-"))
    begins = min(len(given), len(known)) >= _SHORTEST and (given.startswith(known) or known.startswith(given))
    slip = wrong <= max(len(given), len(known)) // 3 and (wrong == 1 or given[:1] == known[:1])
    return wrong if begins or words <= others or others <= words or slip else None


def _edits(given: str, known: str) -> int:
    """Letters to be added, dropped, replaced, or exchanged with the next one, until one name is the other."""
    before: list[int] = []
    last = list(range(len(known) + 1))
    for at, letter in enumerate(given, 1):
        row = [at]
        for to, other in enumerate(known, 1):
            cost = min(last[to] + 1, row[to - 1] + 1, last[to - 1] + (letter != other))
            if at > 1 and to > 1 and letter == known[to - 2] and given[at - 2] == other:
                cost = min(cost, before[to - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def hint(given: str, known: Iterable[str], otherwise: str, elsewhere: str | None = None) -> str:
    """What is said behind a name that is not known: which is near, where else it is known, or else `otherwise`."""
    near = nearest(given, known)
    found = (None if near is None else f"the nearest is {near}", elsewhere)
    return "; ".join(filter(None, found)) or otherwise
