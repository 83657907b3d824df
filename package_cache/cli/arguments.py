"""The options of the command, and how a command line becomes settings."""

import argparse
from collections.abc import Mapping, Sequence

from package_cache.config.files import SYSTEM
from package_cache.config.nearest import hint
from package_cache.config.settings import FILE, SETTINGS, TIMEOUTS
from package_cache.upstream.agent import version_text

_DESCRIPTION = """\
Serve a package mirror through a cache. The first request for a file fetches it from the first source that has it and
passes it on while it arrives; every later one is answered from disk. Clients use this machine as their mirror:
for Portage, GENTOO_MIRRORS="http://THIS-HOST:4000/" in make.conf."""

_EPILOG = """\
Every option can be set in the environment instead: PACKAGE_CACHE_PORT for --port, PACKAGE_CACHE_SOURCE for --source
(several URLs, addresses or networks separated by blanks), and so on; or in a file, config.toml, which can describe several
repositories. The environment wins over the file, and the command line over both. Without options, in seconds:
{timeouts}

package-cache COMMAND does something else with the cache, also while it is served (package-cache COMMAND --help):
{commands}

exit codes: 0 ended by SIGTERM or SIGINT, 1 cannot serve (port taken, cache not writable), 2 wrong options"""


_Holder = argparse._ActionsContainer
"""A parser, or a group of its options."""


def parser(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of the `package-cache` command that serves; `commands` are the others, with what they do."""
    timeouts = "\n".join(f"  {one.variable} (default: {one.default}): {one.text}" for one in TIMEOUTS.values())
    it = argparse.ArgumentParser(
        prog="package-cache",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(
            timeouts=timeouts, commands="\n".join(f"  {name:8} {text}" for name, text in commands.items())
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    it.add_argument("--version", action="version", version=f"package-cache {version_text()}")
    add_serving(it)
    return it


_GROUPS = {
    "what is served, and where it is kept": ("source", "balance", "cache", "scrub"),
    "how much is kept (what was used longest ago goes first, what is pinned stays)": ("max_size", "min_free", "max_age"),
    "how it is served": (
        *("listen", "allow", "connect", "host", "port", "server", "workers", "threads", "connections", "downloads"),
    ),
    "what is logged": ("verbose", "access_log", "access_format", "syslog"),
}


def add_serving(it: argparse.ArgumentParser) -> None:
    """Add every option of the server."""
    for number, (title, names) in enumerate(_GROUPS.items()):
        group = it.add_argument_group(title)
        if number == 0:
            add_config(group)
        for name in names:
            _add(group, name)


def _add(it: _Holder, name: str) -> None:
    """Add the option of a setting; what it says of it is in the table of settings."""
    setting = SETTINGS[name]
    text = setting.text.replace("%", "%%")
    if name == "verbose":
        it.add_argument("--verbose", "-v", action="count", default=argparse.SUPPRESS, help=_VERBOSE)
    elif not setting.looks:
        it.add_argument(setting.option, action="store_true", default=argparse.SUPPRESS, help=text)
    elif setting.several:
        text += "" if setting.default == "none" else f" (default: {setting.default})"
        it.add_argument(setting.option, metavar=setting.looks, action="append", default=argparse.SUPPRESS, help=text)
    else:
        text += f" (default: {setting.default})"
        it.add_argument(setting.option, metavar=setting.looks, default=argparse.SUPPRESS, help=text)


_VERBOSE = "log more: -v each request, -vv each decision"


def add_config(it: _Holder) -> None:
    """Add `--config`."""
    it.add_argument(
        f"--{FILE}",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"the file of configuration (default: that of the user, or {SYSTEM}; package-cache config init writes one)",
    )


def add_source(it: _Holder) -> None:
    """Add `--source`."""
    _add(it, "source")


def add_common(it: _Holder) -> None:
    """Add what every command takes."""
    add_config(it)
    _add(it, "cache")
    _add(it, "verbose")


def add_bounds(it: argparse.ArgumentParser) -> None:
    """Add the options that bound the cache."""
    bounds = it.add_argument_group("how much is kept (what was used longest ago goes first, what is pinned stays)")
    for name in ("max_size", "min_free", "max_age"):
        _add(bounds, name)


def read(words: Sequence[str], commands: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What was given on the command line, as the text `config.build` reads; and what is wrong with the options' names."""
    it = parser(commands)
    namespace, unknown = it.parse_known_args(words)
    late = [f"{word!r} is a command: write it first, as in package-cache {word}" for word in unknown if word in commands]
    return texts(namespace), late[:1] or problems(unknown, it)


def texts(namespace: argparse.Namespace) -> dict[str, str]:
    """What was given, as the text `config.build` reads."""
    return {name: " ".join(value) if isinstance(value, list) else str(value) for name, value in vars(namespace).items()}


def problems(unknown: list[str], it: argparse.ArgumentParser) -> list[str]:
    """What is wrong with the words that a parser does not know."""
    # What follows an unknown option is most likely its value, and argparse has no public list of its options.
    options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    known = [option for action in it._actions for option in action.option_strings]
    found = [f"{option}: there is no such option; {hint(option, known, '--help lists them')}" for option in options]
    return found or [f"{word!r} is not an option; --help lists them" for word in unknown]
