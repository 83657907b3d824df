"""The journal of a fill: lines of JSON by which its leader tells other processes, and its successor, how far it is."""

import json
from dataclasses import dataclass, replace

from package_cache.model import Representation
from package_cache.storage.database import records


@dataclass(frozen=True, slots=True)
class Failed:
    """A fill came to nothing; `status` is what a client is told, `answered` what a source said.

    It is `hopeless` if no source sent what can be right. `retry_after` are seconds for which the sources are not asked.
    """

    status: int
    reason: str
    answered: int | None = None
    hopeless: bool = False
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Journal:
    """What the lines of a journal add up to.

    `number` names the part, 0 while there is none. `head` belongs to its bytes; `confirmed` says that a source vouched for
    it since the lease was last taken. `digest` is set once every byte is there and verified. `done` ends the fill.
    """

    number: int = 0
    head: Representation | None = None
    confirmed: bool = False
    digest: str | None = None
    size: int | None = None
    done: bool = False
    failed: Failed | None = None
    boot: str = ""

    def claimed(self, boot: str) -> "Journal":
        """Somebody has the lease; what an earlier leader had is not vouched for yet."""
        return Journal(number=self.number, head=self.head, boot=boot)

    def begun(self, number: int, head: Representation) -> "Journal":
        """A source vouches for `head` as that of the part."""
        return Journal(number=number, head=head, confirmed=True, boot=self.boot)

    def whole(self, digest: str, size: int) -> "Journal":
        """Every byte is there and verified."""
        return Journal(self.number, self.head, self.confirmed, digest, size, boot=self.boot)

    def ended(self, failed: Failed | None) -> "Journal":
        """The fill is over."""
        return Journal(self.number, self.head, self.confirmed, self.digest, self.size, True, failed, self.boot)  # noqa: FBT003

    def after(self, line: bytes) -> "Journal":
        """The state after one more line. Raises ValueError for a line this format does not know."""
        record: dict[str, object] = json.loads(line)
        match record:
            case {"claim": str(boot), "part": int(number)}:
                return replace(self, number=number).claimed(boot)
            case {"part": int(number), "head": str(text)}:
                return self.begun(number, records.load(text))
            case {"whole": str(digest), "size": int(size)}:
                return self.whole(digest, size)
            case {"done": True}:
                return self.ended(None)
            case {"failed": int(status), "reason": str(reason)}:
                answered, rest = record.get("answered"), record.get("retry_after")
                said, left = (one if isinstance(one, int) else None for one in (answered, rest))
                return self.ended(Failed(status, reason, said, record.get("hopeless") is True, left))
            case _:
                raise ValueError(f"unknown journal line {line!r}")

    def lines(self) -> bytes:
        """The lines that add up to this state."""
        lines = claim_line(self.boot, self.number)
        if self.confirmed and self.head is not None:
            lines += head_line(self.number, self.head)
        if self.digest is not None and self.size is not None:
            lines += whole_line(self.digest, self.size)
        return lines + end_line(self.failed) if self.done else lines


def claim_line(boot: str, number: int) -> bytes:
    """Somebody has the lease, in this boot of the machine; `number` is that of the part found."""
    return _line({"claim": boot, "part": number})


def head_line(number: int, head: Representation) -> bytes:
    """A source vouches for the head of the part."""
    return _line({"part": number, "head": records.dump(head)})


def whole_line(digest: str, size: int) -> bytes:
    """Every byte is there and verified."""
    return _line({"whole": digest, "size": size})


def end_line(failed: Failed | None) -> bytes:
    """The fill is over."""
    if failed is None:
        return _line({"done": True})
    record: dict[str, object] = {"failed": failed.status, "reason": failed.reason}
    if failed.answered is not None:
        record["answered"] = failed.answered
    if failed.hopeless:
        record["hopeless"] = True
    if failed.retry_after is not None:
        record["retry_after"] = failed.retry_after
    return _line(record)


def _line(record: dict[str, object]) -> bytes:
    return json.dumps(record).encode("ascii") + b"\n"
