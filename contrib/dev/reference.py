"""The reference of the Python API, contrib/doc/api.md: signatures and docstrings of the public names, from their sources.

Nothing is run for it but the import of the package: signatures are those of the text, which are the same with every Python.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import package_cache
from package_cache.library.archives.archive import Opened
from package_cache.library.cache import BinaryWriter, TextWriter
from package_cache.library.cleaning import Report
from package_cache.library.downloads.descriptors import Headers
from package_cache.library.downloads.documents import JsonDocument
from package_cache.library.downloads.options import DownloadOptions, RequestOptions
from package_cache.library.downloads.results import Attempt, Result
from package_cache.rules.library.searching import Selection

_WIDTH = 120
_GROUPS = {
    "The cache": (
        *(package_cache.Cache, Selection, package_cache.CacheItem, package_cache.Status, BinaryWriter, TextWriter),
        Report,
    ),
    "Downloads": (
        *(
            package_cache.retrieve,
            package_cache.DownloadManager,
            DownloadOptions,
            RequestOptions,
            package_cache.Descriptor,
            package_cache.File,
        ),
        *(Result, Attempt, Headers, JsonDocument),
    ),
    "Archives": (package_cache.open_archive, Opened),
    "The service": (package_cache.Server, package_cache.create_app),
}
"""What is described, in this order. What is not public is taken or returned by what is."""
_INTERNAL = {"Descriptor": {"call", "private", "reach"}}
"""Methods and properties that the package calls itself."""

_HEAD = """\
# API reference

Made by contrib/dev/generate.py from the docstrings; change those. [The library](library.md) explains how it is used.

All names are in `package_cache`, unless another module is named. [Stability](operations.md#stability) says what stays.
"""


def page() -> str:
    """The text of the reference."""
    _require_all()
    return "\n".join(_page()) + "\n"


def _require_all() -> None:
    """Every public name has its place, or the reference would lack it."""
    described = {one.__name__ for group in _GROUPS.values() for one in group} | {one.__name__ for one in _errors()}
    missing = set(package_cache.__all__) - described - {"__version__"}
    if missing:
        raise SystemExit(f"contrib/dev/reference.py has no place for {', '.join(sorted(missing))}")


def _page() -> Iterator[str]:
    yield _HEAD
    for title, group in _GROUPS.items():
        names = ", ".join(f"[`{one.__name__}`](#{one.__name__.lower()})" for one in group)
        yield f"- {title}: {names}"
    yield "- [Errors](#errors)"
    yield f"- `package_cache.__version__`: {type(package_cache.__version__).__name__}, the version of this package"
    for group in _GROUPS.values():
        for one in group:
            yield from _described(one)
    yield from _error_table()


def _described(one: type | object) -> Iterator[str]:
    name = one.__name__  # type: ignore[attr-defined]
    node = _node(one)
    yield from ("", f"## {name}", "")
    if name not in package_cache.__all__:
        yield from (f"In `{one.__module__}`.", "")
    if isinstance(node, ast.FunctionDef):
        yield from _function(node, node.name)
        return
    assert isinstance(one, type)
    yield from _constructor(one, node)
    yield from _paragraphs(ast.get_docstring(node) or inspect.getdoc(one) or "")
    yield from _values(node)
    for member in _members(one):
        yield from _member(member, name)


def _constructor(one: type, node: ast.ClassDef) -> Iterator[str]:
    """How an object is made, where it is the user who makes it."""
    made = [member for member in node.body if isinstance(member, ast.FunctionDef) and member.name == "__init__"]
    if made and one.__name__ in package_cache.__all__ and not _is_inside(made[0]):
        yield from _signature(made[0], one.__name__)


def _is_inside(made: ast.FunctionDef) -> bool:
    """Whether what makes it takes values of the package's own, so that only the package does."""
    return any(one.arg.startswith("_") or one.arg in ("core", "row") for one in made.args.args[1:])


def _values(node: ast.ClassDef) -> Iterator[str]:
    """Fields, attributes and members of an enumeration, with what is said behind each."""
    made = [
        one
        for member in node.body
        if isinstance(member, ast.FunctionDef) and member.name == "__init__"
        for one in member.body
    ]
    body = node.body + made
    rows: list[tuple[str, str]] = []
    for place, member in enumerate(body):
        told = _told(body[place + 1]) if place + 1 < len(body) else ""
        match member:
            case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                rows.append((f"{name}: {ast.unparse(member.annotation)}", told))
            case ast.AnnAssign(target=ast.Attribute(attr=name)) if not name.startswith("_"):
                rows.append((f"{name}: {ast.unparse(member.annotation)}", told))
            case ast.Assign(targets=[ast.Attribute(attr=name)]) if told:
                rows.append((name, told))
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name.isupper() and not name.startswith("_"):
                rows.append((f"{name} = {ast.unparse(value)}", told))
            case _:
                pass
    if rows:
        yield ""
        yield from (f"- `{shown}`{': ' if told else ''}{told}" for shown, told in rows)


def _told(node: ast.stmt) -> str:
    """The text that stands behind a field."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _members(one: type) -> Iterator[ast.FunctionDef]:
    """The methods and properties of a class and of those of ours that it is made of, in their order."""
    seen: set[str] = set()
    for base in one.__mro__:
        if base.__module__.partition(".")[0] != "package_cache" or base.__module__.startswith("package_cache.server"):
            continue
        found = {
            member.name: member
            for member in _node(base).body
            if isinstance(member, ast.FunctionDef) and not _is_setter(member) and not _is_overload(member)
        }
        for name, member in found.items():
            if not name.startswith("_") and name not in seen | _INTERNAL.get(one.__name__, set()):
                seen.add(name)
                yield member


def _decorators(node: ast.FunctionDef) -> set[str]:
    return {ast.unparse(one) for one in node.decorator_list}


def _is_setter(node: ast.FunctionDef) -> bool:
    return any(one.endswith((".setter", ".deleter")) for one in _decorators(node))


def _is_overload(node: ast.FunctionDef) -> bool:
    return "overload" in _decorators(node)


def _member(node: ast.FunctionDef, of: str) -> Iterator[str]:
    marks = _decorators(node)
    yield from ("", f"### {of}.{node.name}", "")
    if marks & {"property", "cached_property", "functools.cached_property"}:
        yield f"`{node.name}: {_plain(node.returns) if node.returns else 'Any'}` (property)"
        yield ""
        yield from _paragraphs(ast.get_docstring(node) or "")
        return
    yield from _function(node, f"{of}.{node.name}" if "classmethod" in marks else node.name)


def _function(node: ast.FunctionDef, name: str) -> Iterator[str]:
    yield from _signature(node, name)
    yield from _paragraphs(ast.get_docstring(node) or "")
    keywords = node.args.kwarg
    if keywords is not None and keywords.annotation is not None:
        annotation = ast.unparse(keywords.annotation)
        if annotation.startswith("Unpack["):
            table = annotation.removeprefix("Unpack[").removesuffix("]")
            yield from ("", f"`**{keywords.arg}`: see [`{table}`](#{table.lower()}).")


def _signature(node: ast.FunctionDef, name: str) -> Iterator[str]:
    """As it stands in the source, without `self`; an argument a line where one line is too short."""
    arguments = list(_arguments(node.args))
    returns = f" -> {_plain(node.returns)}" if node.returns and node.name != "__init__" else ""
    text = f"{name}({', '.join(arguments)}){returns}"
    if len(text) > _WIDTH:
        text = "\n".join((f"{name}(", *(f"    {one}," for one in arguments), f"){returns}"))
    yield from ("```python", text, "```", "")


def _plain(annotation: ast.expr) -> str:
    """A type that stands in quotes without them."""
    return annotation.value if isinstance(annotation, ast.Constant) and annotation.value else ast.unparse(annotation)


def _arguments(given: ast.arguments) -> Iterator[str]:
    without = len(given.args) - len(given.defaults)
    for place, one in enumerate(given.args):
        if place or one.arg not in ("self", "cls"):
            yield _argument(one, given.defaults[place - without] if place >= without else None)
    if given.kwonlyargs:
        yield "*"
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _argument(one, default)
    if given.kwarg is not None:
        yield f"**{_argument(given.kwarg, None)}"


def _argument(one: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(one) if default is None else f"{ast.unparse(one)} = {ast.unparse(default)}"


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ""
        if paragraph.startswith(("- ", "    ")):
            yield paragraph
        else:
            yield from textwrap.wrap(paragraph, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _errors() -> list[type[package_cache.PackageCacheError]]:
    """All public ones, as a tree: each behind the one that it is a kind of."""
    public = [getattr(package_cache, name) for name in package_cache.__all__]
    found = {one for one in public if isinstance(one, type) and issubclass(one, package_cache.PackageCacheError)}

    def below(base: type[package_cache.PackageCacheError]) -> Iterator[type[package_cache.PackageCacheError]]:
        yield base
        for one in sorted((one for one in found if one.__bases__[0] is base), key=lambda one: one.__name__):
            yield from below(one)

    return list(below(package_cache.PackageCacheError))


def _error_table() -> Iterator[str]:
    yield from ("", "## Errors", "")
    yield "Every error that this package raises on purpose is a `PackageCacheError`."
    yield "The status is what a client of the proxy gets."
    yield from ("", "| error | is a | status | when |", "|---|---|---|---|")
    for one in _errors():
        kinds = ", ".join(f"`{base.__name__}`" for base in one.__bases__)
        told = " ".join((ast.get_docstring(_node(one)) or "").split()).replace("|", "\\|")
        yield f"| `{one.__name__}` | {kinds} | {one.http_status} | {told} |"


def _node(one: type | object) -> ast.ClassDef | ast.FunctionDef:
    """Where it stands in its source."""
    path = str(sys.modules[one.__module__].__file__)
    name = one.__name__  # type: ignore[attr-defined]
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
    raise SystemExit(f"{path} has no {name}")


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text(encoding="utf-8"))
