"""One record a request, and the line it makes in the access log."""

import logging
from dataclasses import dataclass

logger = logging.getLogger("package_cache.access")


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """What became of a request. `sent` counts bytes of the body, `seconds` run from the request to the end of the body."""

    client: str
    method: str
    target: str
    status: int
    sent: int
    kind: str
    source: str
    seconds: float
    cut: bool

    def line(self) -> str:
        """The record as text; whatever a client wrote is escaped."""
        request = f"{self.method} {self.target}".encode("unicode_escape").decode("ascii").replace('"', "\\x22")
        ending = " cut" if self.cut else ""
        return f'{self.client} "{request}" {self.status} {self.sent} {self.kind}{ending} {self.seconds:.3f}s {self.source}'


def enabled() -> bool:
    """Whether anybody reads the log."""
    return logger.isEnabledFor(logging.INFO)


def flush() -> None:
    """Write what was gathered."""


def log(record: AccessRecord) -> None:
    """Write the record to the access log."""
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s", record.line())
