"""How much memory the C library holds that nobody uses: asked of it by name, since Python has no word for it.

A thread that waits for SQLite or hashes takes memory while others do, and glibc gives each an arena of its own for that,
of which little comes back. Most of a server is made under the interpreter's lock, where one arena is enough. Other C
libraries have no such calls, and some interpreters no ctypes: nothing is done there.
"""

from collections.abc import Callable

try:
    import ctypes
except ImportError:
    ctypes = None  # type: ignore[assignment]

_ARENA_MAX = -8
"""`M_ARENA_MAX` of mallopt(3)."""


def share_arena() -> None:
    """Have all threads of this process, and of those forked from it, take memory from one arena. Call it before any."""
    call = _of_glibc("mallopt")
    if call is not None:
        call(_ARENA_MAX, 1)


def give_back() -> None:
    """Give the system the pages in which nothing is. Who allocates meanwhile waits for about a millisecond."""
    call = _of_glibc("malloc_trim")
    if call is not None:
        call(ctypes.c_size_t(0))


def _of_glibc(name: str) -> Callable[..., object] | None:
    if ctypes is None:
        return None
    try:
        library = ctypes.CDLL(None)
    except OSError:  # an interpreter that loads nothing
        return None
    return getattr(library, name, None) if hasattr(library, "gnu_get_libc_version") else None
