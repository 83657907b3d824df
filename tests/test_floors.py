"""The house: imports only go down, decisions do no I/O, and every module is small and says what it is."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import package_cache

ROOT = Path(package_cache.__file__).parent
FILES = {
    ".".join(("package_cache", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

GROUND = {"model", "errors", "config", "units"}
BELOW = {
    "model": set(),
    "errors": set(),
    "units": set(),
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


def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def imports(name: str) -> set[str]:
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
    return found


def floor(name: str) -> str:
    return name.removeprefix("package_cache").strip(".").partition(".")[0]


def ours(name: str) -> set[str]:
    return {one for one in imports(name) if one.partition(".")[0] == "package_cache"}


def test_all_modules_are_found() -> None:
    assert {"package_cache", "package_cache.rules.transfers.transfer", "package_cache.engine.fills.pump"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down_only(name: str) -> None:
    own = floor(name)
    assert own in BELOW, f"nothing says what {own or 'the package'} may import"
    assert {floor(one) for one in ours(name)} - {own} <= BELOW[own]


@pytest.mark.parametrize("name", FILES)
def test_what_is_imported_of_the_package_exists(name: str) -> None:
    assert ours(name) <= set(FILES)


def test_no_module_imports_itself_through_others() -> None:
    TopologicalSorter({name: ours(name) for name in FILES}).prepare()


@pytest.mark.parametrize("name", [name for name in FILES if floor(name) in {"rules", "model", "errors", "units"}])
def test_decisions_do_no_input_or_output_and_know_no_clock(name: str) -> None:
    assert not {one.partition(".")[0] for one in imports(name)} & INPUT_AND_OUTPUT


@pytest.mark.parametrize("name", FILES)
def test_module_says_what_it_is_and_is_not_long(name: str) -> None:
    assert ast.get_docstring(tree(name)), "no docstring"
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= 600


@pytest.mark.parametrize("name", FILES)
def test_no_expression_repeats_a_group_possessively(name: str) -> None:
    """The first releases of Python 3.11 take the beginning of a group that does not match for a match."""
    texts = [node.value for node in ast.walk(tree(name)) if isinstance(node, ast.Constant)]
    expressions = [text.decode("latin-1") if isinstance(text, bytes) else text for text in texts]
    groups = [re.sub(r"\[[^]]*\]", "x", text) for text in expressions if isinstance(text, str) and "(?" in text]
    assert not [text for text in groups if re.search(r"\)(?:[*+?]|\{[0-9,]+\})\+", text)]


def test_no_folder_is_a_pile() -> None:
    folders = {path.parent for path in FILES.values()}
    assert not [folder for folder in folders if len(list(folder.glob("*.py"))) > 24]
