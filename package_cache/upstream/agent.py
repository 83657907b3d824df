"""How this program names itself."""

from functools import cache


@cache
def version_text() -> str:
    """The version of the package that was installed when this was asked first: a running program is that one still."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - takes a while

    try:
        return version("package-cache")
    except PackageNotFoundError:
        return "0+unknown"


def software() -> str:
    """How this program names itself in HTTP."""
    return f"package-cache/{version_text()}"
