"""What the documents say of the program and of each other is so: links, commands, options, settings, files."""

import json
import pstats
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from documentation import DOCUMENTS, GUIDES, README, ROOT, blocks, fenced, headings, section, text_of
from origin import Origin, until
from product import Proxy, blobs, stored, surroundings

import package_cache
from package_cache.cli import arguments, commands
from package_cache.config.repositories import REPOSITORY_KEYS, RULE_KEYS
from package_cache.config.settings import SETTINGS, TIMEOUTS, Setting
from package_cache.errors import ConfigError
from package_cache.rules.http.ranges import MOST
from package_cache.rules.http.request import MAX_POST
from package_cache.server.access import _FETCHED, AccessRecord, Said, as_json
from package_cache.server.tunnels import AT_ONCE
from package_cache.storage.damage import KEPT_BYTES, KEPT_FILES, KEPT_SECONDS
from package_cache.storage.database.schema import SMALL
from package_cache.upstream.mirrors import ASIDE_SECONDS

Start = Callable[..., Proxy]

USERS = tuple(GUIDES / f"{name}.md" for name in ("clients", "configuration", "operations", "library", "migrating"))
FOREIGN = {
    *("--delete", "--append", "--no-cache", "--limit-request-line"),  # of iptables, wget and Gunicorn
}
"""Options in the text of guides that are other programs'."""


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def prose(document: Path) -> str:
    """A document without its blocks."""
    text = re.sub(r"(?ms)^```.*?^```$", "", text_of(document))
    return re.sub(r"(?m)^    .*$", "", text)


def spans(text: str) -> list[str]:
    """What stands between backticks; a table has bars in it escaped."""
    return [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", text)]


def anchors(document: Path) -> set[str]:
    """What a link may name in a document, by the rules of GitHub."""
    plain = (re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", title) for _, title in headings(text_of(document)))
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in plain}


def links(document: Path) -> list[str]:
    return re.findall(r"\[[^]]*\]\(([^)\s]+)\)", prose(document))


# --- Of each other ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_to_a_document_and_to_a_heading_in_it(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_heading_stands_once(document: Path) -> None:
    """Or a link would not know which is meant."""
    titles = [title for _, title in headings(text_of(document))]
    assert titles[0]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_rows_of_a_table_have_as_many_cells_as_its_head(document: Path) -> None:
    for table in re.findall(r"(?m)(?:^\|.*\n)+", text_of(document)):
        lines = table.splitlines()
        assert re.fullmatch(r"[|:-]+", lines[1]), table
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, table


def test_every_document_can_be_reached_from_the_readme() -> None:
    found, following = {README}, [README]
    while following:
        document = following.pop()
        for link in links(document):
            target = (document.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target not in found:
                found.add(target)
                following.append(target)
    assert found >= set(DOCUMENTS)


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= 160


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_no_host_is_named_that_the_project_has_nothing_to_do_with(document: Path) -> None:
    for url in re.findall(r"https?://[^\s\"'`)|,<>]+", text_of(document)):
        host = urlsplit(url).hostname or ""
        ours = ("example", "example.org", "distfiles.gentoo.org", "localhost", "127.0.0.1")
        assert host in ("unix", "host") or host.endswith(ours), url


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_of_the_project_that_are_named_exist(document: Path) -> None:
    text = text_of(document)
    named = re.findall(r"(?<![\w/.-])((?:package_cache|tests|contrib|\.ci)/[\w./*{},-]*[\w*}])", text)
    for name in named:
        path, _, rest = name.partition("{")
        for one in [path + part for part in rest.rstrip("}").split(",")] if rest.endswith("}") else [name]:
            assert list(ROOT.glob(one)) or list(ROOT.glob(f"{one}*")), name
    for path, test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_modules_that_are_named_by_their_floor_exist(document: Path) -> None:
    floors = "|".join(path.name for path in (ROOT / "package_cache").iterdir() if path.is_dir())
    for name in re.findall(rf"`((?:{floors})/[\w/]+\.py)`", text_of(document)):
        assert (ROOT / "package_cache" / name).is_file(), name
    for name in re.findall(rf"`package_cache\.((?:{floors})(?:\.\w+)+)`", text_of(document)):
        assert list((ROOT / "package_cache").glob(f"{name.replace('.', '/')}*")), name


def test_what_is_to_be_read_first_is_in_its_module() -> None:
    table = rows(section("internals", "Where to find what"), "| question |")
    assert len(table) > 15
    for question, modules, names in table:
        texts = [(ROOT / module).read_text(encoding="utf-8") for module in spans(modules)]
        for name in spans(names):
            defined = re.compile(rf"^(?:class |def )?{name}\b", re.MULTILINE)
            assert any(map(defined.search, texts)), f"{name}: {question}"


def test_a_stranger_finds_each_answer_in_one_place() -> None:
    found = {cells[0]: cells[1:] for cells in rows(section("internals", "Where to find what"), "| question |")}
    assert found["How is a range parsed?"] == ["`package_cache/rules/http/ranges.py`", "`parse_ranges`"]
    assert [cells for question, cells in found.items() if "lease" in question]
    assert "between rename and commit" in section("internals", "After a crash")
    assert "`package_cache/rules/repositories/presets.py`" in section("developing", "A preset, for an ecosystem")


# --- Of the program ---------------------------------------------------------------------------------------------------


def ran(line: str) -> Iterator[list[str]]:
    """The runs of this program in a line for the shell, without its name."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    run: list[str] = []
    for word in [*words, ";"]:
        if word and set(word) <= set("();<>|&"):
            places = [at for at, one in enumerate(run) if re.fullmatch(r"([^\s=]*/)?package-cache", one)]
            # What stands before it are variables, and nothing that it would be an argument of.
            if places and all(re.match(r"[A-Za-z_]+=", one) for one in run[: places[0]]):
                yield run[places[0] + 1 :]
            run = []
        else:
            run.append(word)


def written() -> list[tuple[str, list[str]]]:
    """Each run of this program that a document has its reader type, and which document it is in."""
    lines = [
        (name_of(document), line)
        for document in DOCUMENTS
        for block in blocks(re.sub(r"(?ms)^```.*?^```$", "", text_of(document)))
        for line in block.replace("\\\n", " ").splitlines()
        if "package-cache" in line and not line.startswith(("package-cache:", "#"))
    ]
    return [(name, words) for name, line in lines for words in ran(line)]


def test_commands_in_the_documents_are_understood() -> None:
    found = written()
    assert len(found) > 30
    for document, words in found:
        told = f"{document}: package-cache {shlex.join(words)}"
        if words and words[0] in commands.COMMANDS:
            command = commands.load(words[0])
            try:
                _, unknown = commands.build_parser(words[0], command).parse_known_intermixed_args(words[1:])
            except SystemExit:
                pytest.fail(told)
            assert not unknown, told
        else:
            assert not arguments.read(words, commands.summaries())[1], told


def parsers() -> list[object]:
    return [arguments.build_parser({}), *(commands.build_parser(name, commands.load(name)) for name in commands.COMMANDS)]


def options() -> set[str]:
    return {name for it in parsers() for action in it._actions for name in action.option_strings}  # type: ignore[attr-defined]


@pytest.mark.parametrize("document", USERS, ids=name_of)
def test_options_and_commands_in_the_text_exist(document: Path) -> None:
    known = options() | FOREIGN
    for span in spans(prose(document)):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span):
            assert option in known, span
        if match := re.match(r"package-cache ([a-z]+)\b", span):
            assert match[1] in commands.COMMANDS, span


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of a table whose first line begins so."""
    table = text.partition(head)[2].partition("\n\n")[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1])] for line in table.splitlines()[2:]]


def looks(setting: Setting) -> str:
    return f"{setting.option} {setting.looks}".strip()


def test_the_table_of_options_has_all_of_them_with_their_defaults() -> None:
    found = {spans(cells[0])[0]: cells[1].strip("` ") for cells in rows(section("configuration", "Options"), "| option |")}
    expected = {looks(setting): setting.default for setting in SETTINGS.values()}
    assert set(found) == {*expected, "--config FILE", "--version"}
    for name, default in expected.items():
        assert found[name] == default, name


def test_the_table_of_time_limits_has_all_of_them_with_their_defaults() -> None:
    table = rows(section("configuration", "Time limits"), "| variable |")
    found = {spans(cells[0])[0]: spans(cells[1])[0] for cells in table}
    assert found == {setting.variable: setting.default for setting in TIMEOUTS.values()}


def test_the_tables_of_repositories_have_all_keys() -> None:
    text = section("configuration", "Repositories")
    assert [spans(cells[0])[0] for cells in rows(text, "| key |")] == list(REPOSITORY_KEYS)
    assert {f"`{key}`" for key in RULE_KEYS} <= set(re.findall("`[a-z-]+`", section("configuration", "Rules")))


def test_the_table_of_commands_has_all_of_them() -> None:
    table = rows(section("operations", "Commands"), "| command |")
    found = {span.split()[0] for cells in table for span in spans(cells[0])}
    assert found == set(commands.COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_variables_of_the_environment_exist(document: Path) -> None:
    known = {setting.variable for setting in (*SETTINGS.values(), *TIMEOUTS.values())} | {"PACKAGE_CACHE_CONFIG"}
    assert set(re.findall(r"PACKAGE_CACHE_[A-Z_]*[A-Z]", text_of(document))) <= known


def test_the_words_of_the_access_log_are_described() -> None:
    text = section("operations", "Where an answer came from")
    told = {spans(cells[0])[0] for cells in rows(text, "| word |")}
    sources = [
        path.read_text() for floor in ("engine", "server") for path in (ROOT / "package_cache" / floor).rglob("*.py")
    ]
    assert not [word for word in told if not any(f'"{word}"' in source for source in sources)]
    assert told >= _FETCHED
    line = json.loads(as_json(AccessRecord("a", 0.0, Said("GET", "/", ""), 200, 1, "hit", "-", 0.0, cut=False)))
    assert list(line) == spans(text.partition("has the keys")[2])


FIGURES = {
    ("clients", f"at most {AT_ONCE} tunnels"),
    ("configuration", f"with up to {MAX_POST >> 20} MiB of content"),
    ("operations", f"more than {MOST} ranges"),
    ("operations", f"for {ASIDE_SECONDS:.0f} seconds, and for twice the time, up to ten minutes"),
    ("internals", f"files of more than {SMALL >> 10} KiB, named by the SHA-256"),
    ("internals", f"the last {KEPT_FILES}, of {KEPT_BYTES >> 30} GiB at most, for {KEPT_SECONDS / 86400:.0f} days"),
}


@pytest.mark.parametrize(("guide", "text"), sorted(FIGURES))
def test_figures_are_those_of_the_program(guide: str, text: str) -> None:
    assert text in " ".join(text_of(guide).split())


def test_names_of_the_library_in_the_guide_are_public() -> None:
    for example in [one for document in DOCUMENTS for one in fenced(text_of(document), "python")]:
        for names in re.findall(r"(?m)^from package_cache import (.*)$", example):
            assert set(names.split(", ")) <= set(package_cache.__all__)


def test_what_is_in_a_cache_directory_is_described(origin: Origin, start: Start, tmp_path: Path) -> None:
    large = b"a large file" * 10_000
    origin.put("/small-1.tar", b"a small one")
    origin.put("/large-1.tar", large)
    proxy = start(origin.url, arguments=["--max-size", "1G"])
    assert proxy.get("/small-1.tar").body == b"a small one"
    assert proxy.get("/large-1.tar").body == large
    until(lambda: blobs(proxy.cache) and len(stored(proxy.cache)) == 2)
    described = {span for cells in rows(section("internals", "On disk"), "| in the cache") for span in spans(cells[0])}
    patterns = [re.escape(span.split("/")[0]).replace(r"\.\.\.", ".*") for span in described]
    names = {path.name.removesuffix("-wal").removesuffix("-shm") for path in proxy.cache.iterdir()}
    assert {"blobs-v1", "registry-v1.db", "ledger-v1"} <= names
    assert not [name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns)]


def test_the_way_to_profile_the_server_writes_what_its_loop_did(tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    command = [sys.executable, str(ROOT / "contrib/dev/profiled.py"), str(profile), "--port", "0"]
    command += ["--cache", str(tmp_path / "cache"), "--source", f"file://{tmp_path}/"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=surroundings())
    try:
        assert server.stderr is not None
        assert "serving" in server.stderr.readline()
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.communicate()
    assert any("server" in file for file, _, _ in pstats.Stats(str(profile)).stats)  # type: ignore[attr-defined]


# --- Of the project ---------------------------------------------------------------------------------------------------


def test_what_it_depends_on_is_what_the_readme_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = " ".join(text_of(README).split()).lower()
    assert f"python {project['requires-python'].removeprefix('>=')} or later" in told
    for one in project["dependencies"]:
        assert one.replace(">=", " ").lower() in told
    extras = {name for document in DOCUMENTS for name in re.findall(r"package-cache\[(\w+)\]", text_of(document))}
    assert extras <= set(project["optional-dependencies"])


def test_every_floor_is_described() -> None:
    text = section("internals", "The floors")
    for folder in (ROOT / "package_cache").iterdir():
        if (folder / "__init__.py").exists():
            assert f"`{folder.name}`" in text


def test_figures_in_the_readme_were_measured() -> None:
    measured = set(re.findall(r"[\d,.]*\d", text_of(ROOT / "contrib/benchmarks/RESULTS.md")))
    table = rows(section(README, "Speed"), "| load |")
    assert len(table) >= 3
    for _, *figures in table:
        assert set(figures) <= measured


def test_the_checks_before_a_commit_are_those_of_the_check() -> None:
    checks = re.findall(r"(?m)^ *(ruff .*|mypy.*)$", (ROOT / "contrib/dev/check").read_text(encoding="utf-8"))
    assert len(checks) >= 3
    entries = re.findall(r"entry: \.venv/bin/(.*)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert set(checks) <= set(entries)


def test_what_the_newer_python_is_to_test_is_there() -> None:
    words = re.search(r"(?s)modules=\((.*?)\)", (ROOT / ".ci/run").read_text(encoding="utf-8"))
    assert words is not None
    script = f"printf '%s\\n' {' '.join(words[1].split())}"
    paths = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(paths) >= 8
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_changes_of_this_version_are_told() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    release = re.match(r"[\d.]*\d", project["version"].partition(".dev")[0])
    assert release is not None
    newest = headings(text_of("CHANGELOG"))[1]
    assert newest[1].split()[0] == release[0]


def test_unknown_words_would_be_noticed() -> None:
    """The tests above see what is wrong."""
    [words] = ran("path=$(package-cache get --nothing http://mirror.example/) # package-cache no")
    assert words == ["get", "--nothing", "http://mirror.example/"]
    assert list(ran("emerge package-cache | package-cache warm -")) == [["warm", "-"]]
    with pytest.raises(ConfigError):
        commands._read(commands.load("ls"), commands.build_parser("ls", commands.load("ls")), ["--nothing"])
