"""What is known of the machine: what tells one start of it from another, and one machine from another."""

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path


def boot_id() -> str:
    """A name for the time since the machine started; empty where the system has none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def installation(instance: str, root: Path) -> str:
    """A name for the cache `instance` in a directory here: a copy of the directory has another one, here or elsewhere.

    The same in every process of the machine that uses the directory, while the machine runs.
    """
    status = root.stat()
    parts = (instance, boot_id(), os.uname().nodename, status.st_dev, status.st_ino)
    return sha256("\n".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
