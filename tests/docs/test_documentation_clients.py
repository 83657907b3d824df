"""What the guide has one paste for each distribution is read by this cache and by the clients, whose own tests use it."""

import configparser
import re
import tomllib
from pathlib import Path

import pytest
from documentation import README, files, headings, section, text_of
from forks import Forks, run
from machines import CACHE, pasted

CONFIG = "/etc/package-cache/config.toml"
DISTRIBUTIONS = {
    "Gentoo": ("/etc/portage/make.conf", "/etc/portage/binrepos.conf"),
    "Debian": ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/apt.conf.d/02cache"),
    "Ubuntu": ("/etc/apt/sources.list.d/ubuntu.sources",),
    "Arch Linux": ("/etc/pacman.d/mirrorlist",),
    "Fedora": ("/etc/yum.repos.d/fedora.repo", "/etc/yum.repos.d/fedora-updates.repo"),
    "Alpine": ("/etc/apk/repositories",),
    "Python: pip and uv": ("/etc/pip.conf", "/etc/uv/uv.toml"),
    "npm": ("~/.npmrc", "~/.yarnrc.yml"),
}


GUIDE = text_of("clients")


def test_each_distribution_has_a_table_for_the_cache_and_lines_for_its_machines() -> None:
    titles = [title for _, title in headings(GUIDE)]
    assert titles == ["Clients", *DISTRIBUTIONS, "Other package managers", "As a proxy", "Without touching the clients"]
    named = re.findall(r"(?m)^    # (\S.*)$", GUIDE)
    assert sorted(named) == sorted([*[CONFIG] * (1 + len(DISTRIBUTIONS)), *sum(DISTRIBUTIONS.values(), ())])


def test_the_lines_for_clients_in_the_readme_are_those_of_the_guide(shell: Forks, tmp_path: Path) -> None:
    [(name, config), *told] = files(section(README, "Clients"))
    assert name == CONFIG
    file = tmp_path / "config.toml"
    file.write_text(config)
    checked = run("config", "check", "--config", str(file))
    assert checked.returncode == 0, checked.stderr
    assert len(told) == 3
    for name, text in told:
        [heading] = [heading for heading, names in DISTRIBUTIONS.items() if name in names]
        assert text == pasted(heading, name)
        assert pasted(heading, CONFIG).split("[[repository]]")[1].strip() in config


def test_the_tables_of_all_distributions_together_are_a_good_configuration(shell: Forks, tmp_path: Path) -> None:
    begin = GUIDE.split("\n## ")[0]
    lines = re.findall(r"(?m)^    (?!#)(.*)$", begin)
    tables = [pasted(heading, CONFIG) for heading in DISTRIBUTIONS]
    file = tmp_path / "config.toml"
    file.write_text("\n".join([*lines, *tables]))
    checked = run("config", "check", "--config", str(file))
    assert checked.returncode == 0, checked.stderr
    # What the machines ask for is what the tables serve.
    for (heading, names), table in zip(DISTRIBUTIONS.items(), tables, strict=True):
        served = tuple(CACHE.rstrip("/") + one["prefix"] for one in tomllib.loads(table)["repository"])
        urls = [url for name in names for url in re.findall(rf"{CACHE}[^\s\"]*", pasted(heading, name))]
        assert urls, heading
        assert all(url.startswith(served) or url == CACHE for url in urls), heading


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("Gentoo", "/etc/portage/binrepos.conf"),
        ("Fedora", "/etc/yum.repos.d/fedora.repo"),
        ("Fedora", "/etc/yum.repos.d/fedora-updates.repo"),
        ("Python: pip and uv", "/etc/pip.conf"),
    ],
)
def test_files_with_sections_are_read(heading: str, name: str) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(pasted(heading, name))
    assert len(parser.sections()) == 1


def test_the_file_of_uv_is_read() -> None:
    assert tomllib.loads(pasted("Python: pip and uv", "/etc/uv/uv.toml"))["index"][0]["default"] is True
