"""Changes one thing at a time in the product, and says which of the changes no test notices.

    mutate.py package_cache/rules --tests tests/rules
    mutate.py package_cache/storage/blobs.py --tests tests/storage --number 20 --seed 7

A comparison is turned, a condition negated or left out, a number moved by one, a call, an assertion or a raise dropped.
Of all such changes `--number` are drawn by `--seed`. For each, those tests that start no program run in a copy of the
checkout until one fails, first those that import the changed module. What survives is either no change of what the product
does, or has no such test.
"""

import argparse
import ast
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("package_cache", "tests", "contrib", "pyproject.toml", "README.md", ".github")

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SUMS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
}


@dataclass(frozen=True)
class Mutant:
    """One change: the bytes from `start` to `end` of a file become `text`."""

    path: Path
    line: int
    start: int
    end: int
    before: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.before}  ->  {self.text}"


def changed(node: ast.AST) -> Iterator[ast.expr]:
    """What may stand in the place of an expression."""
    match node:
        case ast.Compare(left, [operator], others) if type(operator) in COMPARISONS:
            yield ast.Compare(left, [COMPARISONS[type(operator)]()], others)
        case ast.BoolOp():
            yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
            for value in node.values:
                rest = [one for one in node.values if one is not value]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.BinOp() if type(node.op) in SUMS and not (is_text(node.left) or is_text(node.right)):
            yield ast.BinOp(node.left, SUMS[type(node.op)](), node.right)
        case ast.Constant(bool() as truth):
            yield ast.Constant(not truth)
        case ast.Constant(int() as number):
            yield ast.Constant(number + 1)
        case ast.Name() | ast.Attribute() | ast.Call():
            yield ast.UnaryOp(ast.Not(), node)
        case _:
            return


def done(node: ast.AST) -> Iterator[ast.stmt]:
    """What may be done in the place of a statement."""
    match node:
        case ast.AugAssign() if type(node.op) in SUMS and not is_text(node.value):
            yield ast.AugAssign(node.target, SUMS[type(node.op)](), node.value)
        case ast.Expr(ast.Call()) | ast.Raise() | ast.Assert():
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case _:
            return


def is_text(node: ast.AST) -> bool:
    """Whether this is certainly no number."""
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple | ast.Dict | ast.ListComp) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def nodes(node: ast.AST, is_condition: bool = False) -> Iterator[tuple[ast.expr | ast.stmt, bool]]:
    """What is run, and whether it is all of a condition."""
    if isinstance(node, ast.expr | ast.stmt):
        yield node, is_condition
    for name, value in ast.iter_fields(node):
        # Annotations say nothing at run time; positions within f-strings are wrong before Python 3.12.
        if name in ("annotation", "returns", "decorator_list", "type_params") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from nodes(child, name == "test")


def mutants(path: Path) -> Iterator[Mutant]:
    """All changes of a module."""
    data = path.read_bytes()
    begins = [0]
    for line in data.splitlines(keepends=True):
        begins.append(begins[-1] + len(line))
    for node, is_condition in nodes(ast.parse(data)):
        start = begins[node.lineno - 1] + node.col_offset
        end = begins[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0)
        before = " ".join(data[start:end].decode().split())
        for statement in done(node):
            yield Mutant(path, node.lineno, start, end, before, ast.unparse(statement))
        if is_condition or not isinstance(node, ast.Name | ast.Attribute | ast.Call):
            for expression in changed(node):
                yield Mutant(path, node.lineno, start, end, before, f"({ast.unparse(expression)})")


def in_order(tests: list[Path], mutant: Mutant) -> list[str]:
    """The test modules, those first that import the module of a mutant."""
    name = ".".join(mutant.path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    parent, _, last = name.rpartition(".")
    found = sorted({path for one in tests for path in ([one] if one.is_file() else one.rglob("test_*.py"))})

    def concerns(path: Path) -> bool:
        text = path.read_text()
        return name in text or any(line.startswith(f"from {parent} import") and last in line for line in text.splitlines())

    return [str(path.relative_to(ROOT)) for path in sorted(found, key=lambda path: not concerns(path))]


def passes(copy: Path, tests: list[str], limit: float) -> bool:
    """Whether all tests pass in the copy; what takes too long has failed."""
    command = [sys.executable, "-m", "pytest", "--quick", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    command += ["-o", "addopts=--import-mode=importlib", f"--basetemp={copy / 't'}"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONPYCACHEPREFIX": str(copy / "compiled")}
    environment["HYPOTHESIS_STORAGE_DIRECTORY"] = str(copy / "examples")
    process = subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # servers that a test left, too
        process.wait()


def survives(copy: Path, number: int, mutant: Mutant, tests: list[Path], limit: float) -> bool:
    """Whether no test notices a change."""
    place = copy / mutant.path.relative_to(ROOT)
    whole, date = place.read_bytes(), place.stat().st_mtime
    place.write_bytes(whole[: mutant.start] + mutant.text.encode() + whole[mutant.end :])
    os.utime(place, (number, number))  # by date and size an interpreter knows whether to compile it again
    try:
        return passes(copy, in_order(tests, mutant), limit)
    finally:
        place.write_bytes(whole)
        os.utime(place, (date, date))


def main() -> int:
    """Draw, try, and print the score; 1 if what is unchanged does not pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="modules, or folders of them, that are changed")
    parser.add_argument("--tests", nargs="+", type=Path, required=True, help="what has to notice it")
    parser.add_argument("--number", type=int, default=50, help="how many changes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which of all (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=120, help="seconds for the tests of one (default: %(default)s)")
    options = parser.parse_args()
    tests = [path.resolve() for path in options.tests]
    modules = sorted({path for one in options.paths for path in ([one] if one.is_file() else one.rglob("*.py"))})
    all_of_them = [mutant for path in modules for mutant in mutants(path.resolve())]
    drawn = random.Random(options.seed).sample(all_of_them, min(options.number, len(all_of_them)))
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        for name in COPIED:
            put = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            put(ROOT / name, copy / name)
        if not passes(copy, [str(path.relative_to(ROOT)) for path in tests], 3 * options.limit):
            print("the tests fail without any change")
            return 1
        left = 0
        for number, mutant in enumerate(drawn, 1):
            if survives(copy, number, mutant, tests, options.limit):
                left += 1
                print(f"survived: {mutant}", flush=True)
            print(f"{number - left} of {number} noticed", file=sys.stderr, flush=True)
    share = 100 * (len(drawn) - left) / max(1, len(drawn))
    print(f"{len(drawn) - left} of {len(drawn)} were noticed, {share:.0f} %, of {len(all_of_them)} possible changes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
