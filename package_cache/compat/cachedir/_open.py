"""The opener of files and archives, with results of the types that cachedir gave."""

import os
from collections.abc import Collection, Iterator
from typing import Any, Literal

from package_cache.library.archives.archive import Opened, open_archive
from package_cache.library.archives.members import Members


class Opener:
    """A file, opened at once: `result` is its lines, its content, or a dict of its members.

    Members of a tar are bytes, of a zip text if `default_mode` is 'r'; what is not `large` is bytes, unless it is plain.
    `ext` means nothing: the content decides. Raises as `package_cache.open_archive` does.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        ext: str | None = None,  # noqa: ARG002 - see above
        needed: Collection[str] | None = None,
        large: bool = True,
        default_mode: Literal["r", "rb"] = "r",
        encoding: str | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.needed, self.large, self.default_mode, self.encoding = needed, large, default_mode, encoding
        opened = open_archive(path, needed=needed, large=large, default_mode="rb", encoding=encoding)
        if default_mode == "r" and _is_text(opened.kind, large=large):
            opened.close()
            opened = open_archive(path, needed=needed, large=large, default_mode="r", encoding=encoding)
        self._opened: Opened = opened
        self.result: Any = opened.result
        if isinstance(opened.result, Members):
            # Links that lead to nothing were no members.
            self.result = {name: opened.result[name] for name, size in opened.sizes.items() if size is not None}

    @property
    def type(self) -> str:
        """What it is, by its content: see `package_cache.open_archive`."""
        return self._opened.kind

    @property
    def size(self) -> int | None:
        """Bytes of the content, None while nobody has read it to its end."""
        return self._opened.size

    @property
    def sizes(self) -> dict[str, int | None]:
        """Bytes of each member."""
        return dict(self._opened.sizes)

    @property
    def fileobj(self) -> Any:
        """The file beneath."""
        return self._opened.fileobj

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._opened)

    def __enter__(self) -> "Opener":
        return self

    def __exit__(self, *of: object) -> None:
        self.close()


def _is_text(kind: str, *, large: bool) -> bool:
    """Whether something of that kind was given as text."""
    return kind == "plain" or (large and not kind.startswith("tar"))
