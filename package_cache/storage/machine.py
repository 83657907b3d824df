"""What is known of the machine: what tells one start of it from another."""

from contextlib import suppress
from pathlib import Path


def boot_id() -> str:
    """A name for the time since the machine started; empty where the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""
