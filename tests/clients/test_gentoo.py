"""The ebuilds, sourced and installed by Portage itself from the sdist.

The eclasses of the Gentoo repository are not here: what stands for them does what they are documented to do, no more.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from gentoo import provide_portage  # noqa: F401 - the fixture `portage`
from private import PrivateMachine, why_not

TREE = Path(__file__).parents[2]
OVERLAY = TREE / "contrib/gentoo"
[EBUILD] = OVERLAY.glob("net-proxy/package-cache/*.ebuild")

ECLASSES = {
    "distutils-r1": """
        IUSE="test python_targets_python3_11"; PYTHON_USEDEP="python_targets_python3_11(-)?"
        python_gen_cond_dep() { echo "${1//'${PYTHON_USEDEP}'/${PYTHON_USEDEP}}"; }
        [[ ${DISTUTILS_USE_PEP517} == hatchling ]] || die "no backend"
        [[ " ${PYTHON_COMPAT[*]} " == *" python3_11 "* ]] || die "no Python"
        BDEPEND="dev-python/hatchling"
        distutils-r1_python_install_all() { einstalldocs; }
        distutils-r1_src_install() { python_install_all; }
        distutils-r1_src_compile() { :; }
        EXPORT_FUNCTIONS src_compile src_install
    """,
    "pypi": """
        version=${PV/_alpha/a}; version=${version/_beta/b}; version=${version/_pre/.dev}; version=${version/_rc/rc}
        SRC_URI="http://mirror.example/${PN//-/_}-${version}.tar.gz"; S=${WORKDIR}/${PN//-/_}-${version}; unset version
    """,
    "shell-completion": """
        newbashcomp() ( insinto /usr/share/bash-completion/completions; newins "$@" )
        dozshcomp() ( insinto /usr/share/zsh/site-functions; doins "$@" )
        dofishcomp() ( insinto /usr/share/fish/vendor_completions.d; doins "$@" )
    """,
    "systemd": 'systemd_dounit() ( insinto /usr/lib/systemd/system; doins "$@" )',
    "acct-user": """
        SLOT=0; KEYWORDS="~amd64"
        acct-user_add_deps() { RDEPEND="${ACCT_USER_GROUPS[*]/#/acct-group/}"; }
    """,
    "acct-group": 'SLOT=0; KEYWORDS="~amd64"',
}
INSTALLED = """
    etc/conf.d/package-cache etc/init.d/package-cache etc/logrotate.d/package-cache
    usr/lib/systemd/system/package-cache.service usr/lib/systemd/system/package-cache.socket
    usr/share/bash-completion/completions/package-cache usr/share/zsh/site-functions/_package-cache
    usr/share/fish/vendor_completions.d/package-cache.fish
    usr/share/man/man1/package-cache.1 usr/share/man/man5/package-cache.toml.5
"""


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of the sources, made as for a release."""
    folder = tmp_path_factory.mktemp("sdist")
    pytest.importorskip("hatchling")
    program = f"import hatchling.build as b; print(b.build_sdist({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=TREE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.strip().splitlines()[-1]


def kept() -> set[str]:
    """The files of the checkout; none where it has none of Git's."""
    if shutil.which("git") is None:
        return set()
    command = ["git", "ls-files", "contrib", "tests", "package_cache"]
    return set(subprocess.run(command, cwd=TREE, capture_output=True, text=True, check=False).stdout.split())


def test_the_sdist_has_everything_in_contrib_and_nothing_that_is_made(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert kept() <= names
    assert {"contrib/openrc/init.d/package-cache", "contrib/systemd/package-cache.service", "LICENSE"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_the_ebuild_has_the_version_of_the_package() -> None:
    version = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]["version"]
    wanted = version.replace(".dev", "_pre").replace("rc", "_rc").replace(".post", "_p")
    assert EBUILD.name == f"package-cache-{wanted}.ebuild"


def test_the_ebuild_depends_on_what_the_package_does() -> None:
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    text = EBUILD.read_text()
    extras = project["optional-dependencies"]
    for one in (*project["dependencies"], *extras["curl"], *extras["requests"], *extras["zstd"]):
        name, least = one.partition(";")[0].split(">=")
        assert re.search(rf">=[a-z-]+/{name}-{re.escape(least.strip())}\[", text), one


@pytest.fixture
def gentoo(portage: Path, tmp_path: Path) -> Iterator[PrivateMachine]:
    """A machine with Portage, the overlay, and what stands for the Gentoo repository."""
    if said := why_not():
        pytest.skip(said)
    machine = PrivateMachine(tmp_path / "machine", shown={"/opt/portage": portage})
    try:
        machine.run("sh", "-c", "echo package-cache:x:4711:4711::/:/bin/false >>/etc/passwd")
        machine.run("sh", "-c", "echo package-cache:x:4711: >>/etc/group")
        for name, text in ECLASSES.items():
            machine.write(f"/gentoo/eclass/{name}.eclass", text)
        machine.write("/gentoo/metadata/layout.conf", "masters =\n")
        machine.write("/gentoo/profiles/repo_name", "gentoo\n")
        machine.write("/gentoo/profiles/arch.list", "amd64\narm64\nx86\n")
        machine.write("/gentoo/profiles/categories", "acct-group\nacct-user\nnet-proxy\n")
        machine.write("/gentoo/profiles/test/make.defaults", 'ARCH="amd64"\nACCEPT_KEYWORDS="~amd64"\n')
        machine.write("/gentoo/profiles/test/eapi", "8\n")
        repositories = "[DEFAULT]\nmain-repo = gentoo\n[gentoo]\nlocation = /gentoo\n[package-cache]\nlocation = /overlay\n"
        machine.write("/etc/portage/repos.conf", repositories)
        features = "-userfetch -userpriv -sandbox -usersandbox -network-sandbox -pid-sandbox -ipc-sandbox"
        settings = {"DISTDIR": "/distfiles", "PORTAGE_TMPDIR": "/var/tmp", "PORTAGE_DEPCACHEDIR": "/var/dep"}
        settings |= {"PORTAGE_USERNAME": "root", "PORTAGE_GRPNAME": "root", "FEATURES": features}
        lines = [f'{name}="{value}"\n' for name, value in settings.items()]
        machine.write("/etc/portage/make.conf", "".join(lines))
        assert machine.run("ln", "-s", "/gentoo/profiles/test", "/etc/portage/make.profile").code == 0
        assert machine.run("cp", "-r", str(OVERLAY), "/overlay").code == 0
        assert machine.run("mkdir", "-p", "/distfiles").code == 0
        assert machine.run("sh", "-c", "ln -s $(command -v tar) /usr/local/bin/gtar").code == 0  # so Gentoo calls it
        yield machine
    finally:
        machine.close()


def test_portage_reads_the_ebuilds(gentoo: PrivateMachine) -> None:
    done = gentoo.run(*tool("egencache"), "--config-root=/", "--update", "--repo=package-cache")
    assert done.code == 0, done.text
    names = gentoo.run("find", "/overlay/metadata/md5-cache", "-type", "f", "-printf", "%P\n").text.split()
    version = EBUILD.stem.removeprefix("package-cache-")
    assert set(names) == {
        "acct-group/package-cache-0",
        "acct-user/package-cache-0",
        f"net-proxy/package-cache-{version}",
    }
    text = gentoo.run("cat", f"/overlay/metadata/md5-cache/net-proxy/package-cache-{version}").text
    fields = dict(line.split("=", 1) for line in text.splitlines())
    assert (fields["EAPI"], fields["SLOT"], fields["LICENSE"]) == ("8", "0", "GPL-3+")
    assert {"acct-user/package-cache", "acct-group/package-cache"} <= set(fields["RDEPEND"].split())
    assert "python_gen" not in text


def tool(name: str) -> tuple[str, ...]:
    """One of Portage's programs."""
    return "env", "PORTAGE_CONFIGROOT=/", "NOCOLOR=1", "/opt/portage/bin/python", f"/opt/portage/bin/{name}"


def test_portage_installs_the_service_from_the_sdist(gentoo: PrivateMachine, sdist: Path) -> None:
    assert gentoo.run("cp", str(sdist), "/distfiles/").code == 0
    ebuild = f"/overlay/net-proxy/package-cache/{EBUILD.name}"
    for step in ("manifest", "install"):
        done = gentoo.run(*tool("ebuild"), ebuild, step)
        assert done.code == 0, done.text
    image = f"/var/tmp/portage/net-proxy/{EBUILD.stem}/image/opt/portage"  # it takes that for the root of all it installs
    found = set(gentoo.run("find", image, "-type", "f", "-printf", "%P\n").text.split())
    documents = {f"usr/share/doc/{EBUILD.stem}/{name}.md" for name in ("README", "doc/clients", "doc/operations")}
    plain = {re.sub(r"\.(bz2|gz)$", "", name) for name in found if "keep_" not in name}
    assert plain >= {*INSTALLED.split(), *documents}
    owners = gentoo.run("stat", "-c", "%U:%G", *(f"{image}/var/{name}/package-cache" for name in ("cache", "log")))
    assert owners.text == "package-cache:package-cache\n" * 2
    assert gentoo.run("test", "-x", f"{image}/etc/init.d/package-cache").code == 0


@pytest.mark.parametrize("path", sorted(OVERLAY.glob("*/*/metadata.xml")), ids=lambda path: path.parent.parent.name)
def test_the_metadata_is_xml(path: Path) -> None:
    assert ElementTree.parse(path).getroot().tag == "pkgmetadata"
