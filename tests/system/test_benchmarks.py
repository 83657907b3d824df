"""The benchmark runs with what is installed, says what went wrong, and leaves nothing behind."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mirror import poll, require
from origin import Origin, Raw, Say, Serve

COMPARE = Path(__file__).parents[2] / "contrib" / "benchmarks" / "compare.py"


def start(*arguments: str, folder: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, str(COMPARE), "--quick", *arguments]
    variables = {**os.environ, **({"TMPDIR": str(folder)} if folder else {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


def processes(word: str) -> list[str]:
    """The command lines of living processes that hold the word."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return [line for line in found if word in line]


def test_a_case_is_measured_with_every_server_that_is_installed(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    run = start("--cases", "range", "--servers", "ours,nginx-cache,squid,varnish", "--markdown", str(table))
    said, errors = run.communicate(timeout=100)
    assert run.returncode == 0, said + errors
    rows = [line.split("|")[1].strip() for line in table.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    left_out = {line.partition(":")[0] for line in said.splitlines() if "left out" in line}
    assert set(rows[2:]) == {"direct", "gunicorn", "wsgiref", "gthread", "nginx-cache", "squid", "varnish"} - left_out
    assert not left_out & {"gunicorn", "wsgiref", "gthread"}
    assert errors == ""


def test_an_answer_that_is_not_what_was_asked_for_is_told_in_its_row_and_by_the_exit_code() -> None:
    run = start("--cases", "range", "--servers", "0.2")
    said, _ = run.communicate(timeout=100)
    assert run.returncode == 1
    assert [line for line in said.splitlines() if line.strip().startswith("0.2 ") and "the range is ignored" in line]


def test_an_index_that_is_served_without_asking_its_source_is_a_fault() -> None:
    require("wrk")
    run = start("--cases", "index", "--servers", "0.2")
    said, _ = run.communicate(timeout=100)
    assert run.returncode == 1
    row = next(line for line in said.splitlines() if line.strip().startswith("0.2 "))
    assert "what the source changed was served as it was before" in row
    assert "the source was asked 0 times" in row


def test_the_client_of_many_small_files_sees_every_answer_that_is_wrong(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(COMPARE.parent)
    walker = importlib.import_module("walker")
    right = (Serve(), Serve(fields=(("Connection", "close"),)), Serve(pace=20_000))
    wrong = (Serve(cut=1000), Serve(reset=2000), Serve(body=b"x" * 4096), Say(404), Raw(b""))
    paths = [f"package-1.{number}.tar" for number in range(4 * len(right + wrong))]
    bodies = [os.urandom(4096) for _ in paths]
    for number, (path, body) in enumerate(zip(paths, bodies, strict=True)):
        origin.put(f"/{path}", body, (right + wrong)[number % len(right + wrong)])
    done = walker.walk(("127.0.0.1", origin.port), paths, 3)
    assert done.wrong(bodies) == [f"{4 * len(wrong)} of {len(paths)} bodies wrong"]
    assert sorted(asked.target for asked in origin.requests()) == sorted(f"/{path}" for path in paths)


def test_what_the_product_is_to_reach_is_set_beside_what_it_reached() -> None:
    require("nginx", "openssl")
    run = start("--cases", "cold-https", "--servers", "gunicorn")
    said, errors = run.communicate(timeout=100)
    assert run.returncode == 0, said + errors
    assert [line for line in said.splitlines() if "https source" in line and "at least 0.9" in line]


def test_interrupting_it_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    require("nginx")
    run = start("--cases", "slow", "--servers", "gunicorn", folder=tmp_path)
    poll(lambda: [line for line in processes(str(tmp_path)) if "package_cache" in line])
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130
    poll(lambda: not processes(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("case", "figure"), [("items", "ms"), ("search", "ten"), ("import", "import")])
def test_the_library_is_measured(tmp_path: Path, case: str, figure: str) -> None:
    program = [sys.executable, str(COMPARE.with_name("library_runs.py")), "new", case, str(tmp_path), "20", "60"]
    run = subprocess.run(program, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)[figure] > 0
