"""The house: imports only go down, decisions do no I/O, and every module is small and says what it is."""

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import package_cache

ROOT = Path(package_cache.__file__).parent
FILES = {
    ".".join(("package_cache", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

GROUND = {"model", "errors", "config", "units", "log_limit"}
BELOW = {
    "model": set(),
    "errors": {"model"},
    "units": set(),
    "log_limit": set(),
    "config": {"model", "errors", "units"},
    "rules": GROUND,
    "storage": GROUND | {"rules"},
    "upstream": GROUND | {"rules"},
    "engine": GROUND | {"rules", "storage", "upstream"},
    "server": GROUND | {"rules", "storage", "upstream", "engine"},
    "library": GROUND | {"rules", "storage", "upstream", "engine"},
    "compat": GROUND | {"rules", "storage", "upstream", "engine", "library"},
    "cli": GROUND | {"rules", "storage", "upstream", "engine", "server", "library", "compose"},
    "compose": GROUND | {"rules", "storage", "upstream", "engine", "server", "library", "cli"},
    "__main__": {"cli"},
    "": {"compose", "library"} | GROUND,
}
"""What each floor may import besides itself."""

INPUT_AND_OUTPUT = {
    *("os", "io", "socket", "sqlite3", "threading", "time", "logging", "subprocess", "pathlib", "shutil", "tempfile"),
    *("selectors", "select", "asyncio", "multiprocessing", "concurrent", "random", "urllib3", "http", "requests", "mmap"),
}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


@cache
def imports(name: str) -> frozenset[str]:
    """Every module that a module imports, wherever in its text."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        match node:
            case ast.Import(names=names):
                found |= {one.name for one in names}
            case ast.ImportFrom(module=module, names=names, level=level):
                assert level == 0, f"{name} imports by a relative name"
                assert module is not None
                found |= {inside if (inside := f"{module}.{one.name}") in FILES else module for one in names}
            case _:
                pass
    return frozenset(found)


def floor(name: str) -> str:
    return name.removeprefix("package_cache").strip(".").partition(".")[0]


def ours(name: str) -> set[str]:
    return {one for one in imports(name) if one.partition(".")[0] == "package_cache"}


def test_all_modules_are_found() -> None:
    assert {"package_cache", "package_cache.rules.transfers.transfer", "package_cache.engine.fills.pump"} <= set(FILES)


def test_imports_go_down_only() -> None:
    assert {floor(name) for name in FILES} <= set(BELOW), "nothing says what a floor may import"
    assert not [
        f"{name} imports {one}"
        for name in FILES
        for one in ours(name)
        if floor(one) not in BELOW[floor(name)] | {floor(name)}
    ]


def test_what_is_imported_of_the_package_exists() -> None:
    assert not [f"{name} imports {one}" for name in FILES for one in ours(name) - set(FILES)]


def test_no_module_imports_itself_through_others() -> None:
    TopologicalSorter({name: ours(name) for name in FILES}).prepare()


def test_decisions_do_no_input_or_output_and_know_no_clock() -> None:
    pure = [name for name in FILES if floor(name) in {"rules", "model", "errors", "units"}]
    assert not [
        f"{name} imports {one}" for name in pure for one in imports(name) if one.partition(".")[0] in INPUT_AND_OUTPUT
    ]


def test_decisions_reach_no_module_that_reads_files() -> None:
    # A module runs the `__init__` of its package, too; that of the whole package imports what is asked of it, later.
    seen = {"package_cache", ""}
    ahead = [name for name in FILES if floor(name) == "rules"]
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += [*ours(name), name.rpartition(".")[0]]
    assert "package_cache.config.layers" not in seen


def test_each_module_says_what_it_is_and_is_not_long() -> None:
    assert not [name for name in FILES if not ast.get_docstring(tree(name))]
    assert not [name for name, file in FILES.items() if len(file.read_text(encoding="utf-8").splitlines()) > 600]


def test_no_expression_repeats_a_group_possessively() -> None:
    """The first releases of Python 3.11 take the beginning of a group that does not match for a match."""
    assert not [(name, text) for name in FILES for text in possessive(tree(name))]


def possessive(module: ast.Module) -> list[str]:
    texts = [node.value for node in ast.walk(module) if isinstance(node, ast.Constant)]
    expressions = [text.decode("latin-1") if isinstance(text, bytes) else text for text in texts]
    groups = [re.sub(r"\[[^]]*\]", "x", text) for text in expressions if isinstance(text, str) and "(?" in text]
    return [text for text in groups if re.search(r"\)(?:[*+?]|\{[0-9,]+\})\+", text)]


def test_no_folder_is_a_pile() -> None:
    folders = {path.parent for path in FILES.values()}
    assert not [folder for folder in folders if len(list(folder.glob("*.py"))) > 24]
