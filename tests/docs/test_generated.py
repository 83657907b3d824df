"""The manual, the completions and the reference: that they are current, well made, and know what the program knows."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from mirror import require

from package_cache.cli import arguments, commands
from package_cache.config.repositories import REPOSITORY_KEYS, RULE_KEYS
from package_cache.config.settings import SETTINGS, TIMEOUTS

CONTRIB = Path(__file__).parents[2] / "contrib"
PAGES = ("package-cache.1", "package-cache.toml.5")
SHELL_FILES = ("openrc/init.d/package-cache", "openrc/conf.d/package-cache", "completion/package-cache.bash", "dev/check")


def output(*command: str, **variables: str) -> str:
    """What a program that must succeed writes."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **variables})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_what_is_committed_is_what_would_be_made() -> None:
    program = "import generate, json; print(json.dumps({str(path): text for path, text in generate.generated().items()}))"
    made = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(CONTRIB / "dev"), *filter(None, sys.path)])},
    )
    files = json.loads(made.stdout)
    assert len(files) == 6
    for path, text in files.items():
        assert Path(path).read_text(encoding="utf-8") == text, "run python contrib/dev/generate.py"


@pytest.mark.parametrize("page", PAGES)
def test_mandoc_finds_nothing_wrong_with_the_manual(page: str) -> None:
    require("mandoc")
    assert output("mandoc", "-Tlint", "-Wall", str(CONTRIB / "man" / page)) == ""


def rendered(page: str) -> str:
    """The text that a reader sees, in one line."""
    require("mandoc")
    text = output("mandoc", "-Tascii", "-Owidth=200", str(CONTRIB / "man" / page))
    return " ".join(re.sub(r".\x08", "", text).split())


def test_the_manual_names_every_option_command_and_variable() -> None:
    text = rendered("package-cache.1")
    parsers = [
        arguments.build_parser({}),
        *(commands.build_parser(name, commands.load(name)) for name in commands.COMMANDS),
    ]
    for name in commands.COMMANDS:
        assert f" package-cache {name} " in text
    for it in parsers:
        for action in it._actions:
            if "--help" not in action.option_strings and "--version" not in action.option_strings:
                for name in action.option_strings:
                    assert re.search(rf"(?<!\S){name}[ ,]", text), name
    for setting in (*SETTINGS.values(), *TIMEOUTS.values()):
        assert f" {setting.variable} " in text


def test_the_manual_of_the_file_names_every_key() -> None:
    text = rendered("package-cache.toml.5")
    for setting in SETTINGS.values():
        assert f" {setting.key} = " in text
    for name in (*(name.removesuffix("_timeout") for name in TIMEOUTS), *REPOSITORY_KEYS, *RULE_KEYS):
        assert f" {name} " in text


@cache
def completed_by_bash(*words: str) -> list[str]:
    """What bash offers for the last word."""
    require("bash")
    program = """
        source "$1"; shift
        COMP_WORDS=(package-cache "$@"); COMP_CWORD=$#
        _package_cache
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = str(CONTRIB / "completion/package-cache.bash")
    return output("bash", "--norc", "-c", program, "bash", path, *words).split()


def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    assert set(completed_by_bash("")) == set(commands.COMMANDS)
    assert completed_by_bash("pu") == ["purge"]
    assert set(completed_by_bash("--")) > {"--source", "--listen", "--version"}
    assert completed_by_bash("--access-f") == ["--access-format"]
    assert completed_by_bash("gc", "--dr") == ["--dry-run"]
    assert "--dry-run" not in completed_by_bash("ls", "--")
    assert completed_by_bash("health", "--wo") == ["--workers"]
    assert completed_by_bash("--server", "gu") == ["gunicorn"]
    assert completed_by_bash("get", "--refresh", "js") == ["json-metadata"]
    assert completed_by_bash("--port", "") == []
    assert completed_by_bash("config", "sh") == ["show"]
    (tmp_path / "a folder").mkdir()
    (tmp_path / "config.toml").touch()
    assert completed_by_bash("--config", f"{tmp_path}/conf") == [f"{tmp_path}/config.toml"]
    assert completed_by_bash("import", f"{tmp_path}/") == f"{tmp_path}/a folder".split()


def completed_by_fish(line: str) -> list[str]:
    path = str(CONTRIB / "completion/package-cache.fish")
    lines = output("fish", "--no-config", "-c", f"source {path}; complete -C '{line}'").splitlines()
    return [one.partition("\t")[0] for one in lines]


def test_fish_completes_commands_options_and_values() -> None:
    require("fish")
    assert set(completed_by_fish("package-cache ")) == set(commands.COMMANDS)
    assert completed_by_fish("package-cache --access-f") == ["--access-format"]
    assert completed_by_fish("package-cache gc --dr") == ["--dry-run"]
    assert completed_by_fish("package-cache ls --dr") == []
    assert completed_by_fish("package-cache --server gu") == ["gunicorn"]
    assert completed_by_fish("package-cache config sh") == ["show"]


def completed_by_zsh(*words: str) -> list[str]:
    """What zsh's own functions are told for the last word."""
    program = """
        _arguments() { shift; print -rl -- "$@"; }
        _describe() { print -rl -- ${(P)4}; }
        file=$1; shift
        words=(package-cache "$@"); CURRENT=$#words
        source $file
    """
    path = str(CONTRIB / "completion/_package-cache")
    return output("zsh", "--no-rcs", "-c", program, "zsh", path, *words).splitlines()


def test_zsh_completes_commands_options_and_values() -> None:
    require("zsh")
    assert [one.partition(":")[0] for one in completed_by_zsh("")] == list(commands.COMMANDS)
    assert "--server[the server to run under\\: wsgiref is one process, gunicorn is for production]" in "".join(
        one.partition(":wsgiref|gunicorn:(wsgiref gunicorn)")[0] for one in completed_by_zsh("--se")
    )
    assert "--dry-run[change nothing, only say what would be removed]" in completed_by_zsh("gc", "--dr")
    assert ":action:(check show init)" in completed_by_zsh("config", "")
    assert not any("--dry-run" in one for one in completed_by_zsh("ls", "--"))


@pytest.mark.parametrize("name", SHELL_FILES)
def test_shellcheck_finds_nothing_wrong(name: str) -> None:
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    shell = "bash" if name.endswith(".bash") else "sh"
    unused = ["--exclude=SC2034"] if "conf.d" in name else []
    assert output(checker, f"--shell={shell}", *unused, str(CONTRIB / name)) == ""
