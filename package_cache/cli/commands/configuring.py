"""`config`: check the settings, show where each comes from, write a first file."""

import os
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

from package_cache import compose
from package_cache.cli import arguments, logs, output
from package_cache.cli.arguments import DONE, Command
from package_cache.config import Config
from package_cache.config.layers import COMMAND_LINE, ENVIRONMENT, SYSTEM, Layered, configured, places
from package_cache.config.repositories import REPOSITORY_KEYS, RULE_KEYS
from package_cache.config.settings import FILE, NAMES, SETTINGS, TIMEOUTS, Setting, setting_of
from package_cache.errors import ConfigError, PackageCacheError
from package_cache.model import Repository, Rule, Source
from package_cache.units import Share

_DEFAULT = "default"

_WIDTH = 120

_HEAD = """\
# The configuration of package-cache. The environment (PACKAGE_CACHE_PORT=4000) wins over this file, and the command line
# (--port 4000) over both. package-cache config check tells what is wrong here.
# Remove the # in front of a line to make it a setting; the values here are the defaults.
"""

_REPOSITORIES = """\

# What is served. Each repository has a prefix, the beginning of its paths, or hosts that clients know it by, or both.
#
# [[repository]]
# name = "gentoo"
# prefix = "/"
# sources = ["http://distfiles.gentoo.org/", "http://mirror.example/gentoo/"]
# preset = "gentoo"
#
# [[repository]]
# name = "debian"
# prefix = "/debian/"
# hosts = ["deb.example/debian"]
# sources = ["http://mirror.example/debian/"]
# preset = "debian"
#
# [[repository.rule]]
# match = "*.iso"
# fresh = "never"
#
"""

_EXAMPLES = {
    "source": '["http://mirror.example/gentoo/"]',
    "listen": '[":4000", "unix:/run/package-cache.sock"]',
    "connect": '["mirror.example:443"]',
    "allow": '["192.168.0.0/16", "fd00::/8"]',
    "cache": '"/var/cache/package-cache"',
    "access_log": '"/var/log/package-cache/access.log"',
    "max_size": '"200G"',
    "min_free": '"5%"',
    "max_age": '"365d"',
    "verbose": "1",
}


def template() -> str:
    """The text of the file."""
    return _HEAD + "".join(_template_settings()) + _REPOSITORIES + "".join(_template_keys())


def _template_settings() -> Iterator[str]:
    for setting in SETTINGS.values():
        default = "" if setting.name not in _EXAMPLES else f" (without it: {setting.default})"
        text = setting.text.partition(" (repeat it")[0]
        yield f"\n# {text}{default}\n# {setting.key} = {_EXAMPLES.get(setting.name) or _literal(setting)}\n"
    yield "\n# Limits on silence, in seconds.\n# [timeouts]\n"
    for name, setting in TIMEOUTS.items():
        yield f"# {name.removesuffix('_timeout')} = {setting.default}  # {setting.text}\n"


def _literal(setting: Setting) -> str:
    """The default, as it is written in the file."""
    if not setting.looks:
        return {"no": "false", "yes": "true"}[setting.default]
    return setting.default if setting.default.isdigit() else f'"{setting.default}"'


def _template_keys() -> Iterator[str]:
    yield "# The keys of a repository:\n"
    yield from map(_template_key, REPOSITORY_KEYS.items())
    yield "# and of its rules:\n"
    yield from map(_template_key, RULE_KEYS.items())


def _template_key(named: tuple[str, str]) -> str:
    return textwrap.fill(": ".join(named), _WIDTH, initial_indent="#   ", subsequent_indent="#     ") + "\n"


class CannotWrite(PackageCacheError):
    """A file of configuration cannot be written, or is there already."""


def _add(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=("check", "show", "init"), help="what to do")
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default=None, help="the file to check, show or write (init: - prints)"
    )
    parser.add_argument(
        "--json", action="store_true", default=False, help="show: one JSON object, with sizes in bytes and times in seconds"
    )


def _run(given: Namespace, _config: Config) -> int:
    if given.action == "init":
        return _init(given.file)
    texts = {name: text for name, text in arguments.texts(given).items() if name in (*NAMES, FILE)}
    if given.file:
        texts[FILE] = given.file
    settings = configured(os.environ, texts)
    if given.action == "check":
        return _check(settings)
    if given.json:
        rows = {name: {"value": _value(settings.config, name), "from": where} for name, _, where in _rows(settings)}
        output.document(rows | _tables(settings))
    else:
        _print(settings)
    return DONE


def _check(settings: Layered) -> int:
    """Print that a server could start with these settings. Raises ConfigError with everything that would prevent it."""
    config, problems = settings.config, []
    looks = (compose.require_sources, compose.require_gunicorn, compose.check_access_log, logs.check)
    for check in looks:
        try:
            check(config)
        except PackageCacheError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    count = output.count(len(config.repositories), "repository", "repositories")
    output.line(f"{settings.file or 'no file of configuration'}: nothing wrong; {count}")
    return DONE


def _rows(settings: Layered) -> Iterator[tuple[str, str, str]]:
    """Name, value as text and layer of each setting."""
    for name in NAMES:
        setting = setting_of(name)
        text, layer = settings.origins.get(name, (setting.default, _DEFAULT))
        if name == "source":
            text = " ".join(f"{one.base}/" for one in settings.config.source) or "none"  # without its credentials
        yield name, text, _told(setting, layer)


def _value(config: Config, name: str) -> object:
    """The value of a setting as JSON has it: sizes in bytes, times in seconds, null for a bound that does not exist."""
    if name == "cache":
        return str(compose.cache_directory(config))
    if name in TIMEOUTS:
        return getattr(config.timeouts, name.removesuffix("_timeout"))
    return _plain(getattr(config, name))


def _plain(value: object) -> object:
    match value:
        case tuple():
            return [_plain(one) for one in value]
        case Source():
            return f"{value.base}/"  # without its credentials
        case Share():
            return value.bytes or f"{value.part * 100:g}%"
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _told(setting: Setting, layer: str) -> str:
    places = {COMMAND_LINE: setting.option, ENVIRONMENT: setting.variable}
    return f"{layer} ({places[layer]})" if layer in places else layer


def _tables(settings: Layered) -> dict[str, object]:
    return {"repository": [dict(_lines(one)) for one in settings.config.repositories]}


def _lines(one: Repository) -> Iterator[tuple[str, object]]:
    """What a repository is, without what is secret."""
    yield "name", one.name
    if not one.home.startswith("/-/"):
        yield "prefix", f"{one.home}/"
    if one.hosts:
        yield "hosts", [place.authority + place.path for place in one.hosts]
    yield "sources", [_source(source) for source in one.sources]
    if one.preset:
        yield "preset", one.preset.value
    if one.rules:
        yield "rules", [_rule(rule) for rule in one.rules]
    if one.largest:
        yield "max-file-size", one.largest
    if one.posts:
        yield "pass-post", list(one.posts)
    if one.links:
        yield "links", [f"{there} -> {here}" for there, here in one.links]
    if one.tarballs:
        yield "links", [f"tarballs -> {one.home}/"]


def _rule(rule: Rule) -> str:
    fresh = f"fresh {rule.fresh.text}" if rule.fresh else ""
    largest = f"at most {rule.largest} bytes" if rule.largest else ""
    return f"{rule.match}: {', '.join(filter(None, (fresh, largest)))}"


def _source(source: Source) -> str:
    names = ", ".join(name for name, _ in source.fields)
    return f"{source.base}/" + (f" (sends {names})" if names else "")


def _print(settings: Layered) -> None:
    rows = [(setting_of(name).key, text, where) for name, text, where in _rows(settings)]
    output.table(("setting", "value", "from"), rows)
    for one in settings.config.repositories:
        output.line()
        for key, value in _lines(one):
            title = "repository" if key == "name" else f"  {key}"
            for number, text in enumerate(value if isinstance(value, list) else [value]):
                output.line(f"{'' if number else title:<15} {text}")


def _init(file: str | None) -> int:
    """Write a first file. Raises CannotWrite where there is one."""
    text = template()
    if file == "-":
        output.pour([text.encode()])
        return DONE
    path = Path(file) if file else SYSTEM if os.geteuid() == 0 else places()[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            raise CannotWrite(f"{path} is there already, and stays as it is; config init - prints what would be written")
        _write(path, text)
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror}") from error
    output.line(f"wrote {path}")
    return DONE


def _write(path: Path, text: str) -> None:
    """Make a file with this text, or none."""
    target = path.open("x", encoding="utf-8")
    try:
        with target:
            target.write(text)
    except BaseException:
        path.unlink()
        raise


CONFIG = Command(
    f"""
check tells everything that is wrong with the settings; show tells each value and the layer that it comes from; init writes
a first file, in which every setting is explained. Settings come from a file, from the environment, and from the options of
the server; each wins over those before it. The file is that of --config, else the user's, else
{SYSTEM}.""",
    _add,
    _run,
    like_serving=True,
    own_settings=True,
)
