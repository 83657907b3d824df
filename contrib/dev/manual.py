"""The manual: package-cache(1) from the parsers, package-cache.toml(5) from the table of settings."""

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator

from parsers import COMMON, Argument, Command, Option, all_commands, server

from package_cache.cli.commands.configuring import template
from package_cache.config.layers import SYSTEM
from package_cache.config.repositories import REPOSITORY_KEYS, RULE_KEYS
from package_cache.config.settings import SETTINGS, TIMEOUTS, Setting

_RELEASE = "package-cache 1.0"
_WIDTH = 76
"""Characters of a line of the source; those that are written as two are few."""
_DATE = "2026-11-21"


def command_page() -> str:
    """The text of package-cache(1)."""
    return "\n".join(_command_page()) + "\n"


def file_page() -> str:
    """The text of package-cache.toml(5)."""
    return "\n".join(_file_page()) + "\n"


def _command_page() -> Iterator[str]:
    serving, others = server(), all_commands()
    shared = [text for text, count in Counter(text for one in others for text in one.paragraphs).items() if count > 1]
    yield from _head("PACKAGE-CACHE", 1, "package-cache", serving.summary)
    yield ".SH SYNOPSIS"
    yield from (".B package\\-cache", ".RI [ OPTION ...]", ".br", ".B package\\-cache", ".I COMMAND", ".RI [ ARGUMENT ...]")
    yield ".SH DESCRIPTION"
    yield from _paragraphs(serving.paragraphs)
    yield ".SH OPTIONS"
    yield from _options(serving.options)
    yield ".SH COMMANDS"
    yield from _paragraphs(["They look into the cache or change it, also while it is served. All of them take"])
    yield from _joined([_names(one) for one in serving.options if one.long in COMMON])
    for one in others:
        yield from _command(one, shared)
    yield ".SS Names and values"
    yield from _paragraphs(shared)
    yield ".SH ENVIRONMENT"
    yield from _paragraphs(
        ["Each option of the server has a variable, and the following have no option. The command line wins."]
    )
    for setting in (*SETTINGS.values(), *TIMEOUTS.values()):
        seconds = f"seconds {setting.text} (default: {setting.default})"
        yield from _item(_bold(setting.variable), f"as {setting.option}" if setting.name in SETTINGS else seconds)
    yield ".SH FILES"
    yield from _item(_italic(str(SYSTEM)), "the settings; see package-cache.toml(5)")
    yield from _item(_italic("~/.config/package-cache/config.toml"), "those of a user, in the place of that")
    yield from _item(_italic("~/.cache/package-cache"), "the cache, unless a setting names another directory")
    yield ".SH EXIT STATUS"
    yield from _paragraphs(
        [_sentence(serving.end), _sentence(others[0].end.replace("exit codes:", "Of the other commands:"))]
    )
    yield ".SH SEE ALSO"
    yield ".BR package\\-cache.toml (5)"


def _command(one: Command, shared: list[str]) -> Iterator[str]:
    words = [f"package-cache {one.name}", *(_shown(argument) for argument in one.arguments)]
    yield f".SS {_escape(' '.join(words))}"
    yield from _paragraphs([_sentence(one.summary), *(text for text in one.paragraphs if text not in shared)])
    for argument in one.arguments:
        choices = f"{', '.join(argument.choices)}: " if argument.choices else ""
        yield from _item(_italic(argument.name), choices + argument.text)
    for option in one.own:
        yield from _item(_names(option), option.text)
    if one.serves:
        yield from _item(_italic("OPTION"), "every option of the server")


def _shown(argument: Argument) -> str:
    text = "|".join(argument.choices) or argument.name
    return text if argument.needed else f"[{text}]"


def _options(options: Iterable[Option]) -> Iterator[str]:
    group = ""
    for option in options:
        if option.group not in (group, "options"):
            group = option.group
            yield f".SS {_escape(group[0].upper() + group[1:])}"
        yield from _item(_names(option), option.text)


def _file_page() -> Iterator[str]:
    yield from _head("PACKAGE-CACHE.TOML", 5, "package-cache.toml", "the configuration of package-cache")
    yield ".SH SYNOPSIS"
    yield f".I {_escape(str(SYSTEM))}"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(
        [
            "The file is written in TOML. Every setting of package-cache(1) can be made here, and repositories can be"
            " described. It is that which --config names, else the user's, else the one above. The environment wins over"
            " the file, and the command line over both.",
            "package-cache config init writes a first file, in which every setting is explained. package-cache config check"
            " tells all that is wrong with it, and package-cache config show from where each setting comes. A running"
            " service reads it again at SIGHUP, and goes on as before if something is wrong with it.",
        ]
    )
    yield ".SH SETTINGS"
    for setting in SETTINGS.values():
        yield from _item(_bold(setting.key) + _value(setting), f"{_bare(setting)} (default: {setting.default})")
    yield ".SS [timeouts]"
    yield from _paragraphs(["Limits on silence, in seconds."])
    for setting in TIMEOUTS.values():
        key = setting.key.removesuffix("-timeout")
        yield from _item(f"{_bold(key)} = {_italic('SECONDS')}", f"{setting.text} (default: {setting.default})")
    yield ".SS [[repository]]"
    for key, text in REPOSITORY_KEYS.items():
        yield from _item(_bold(key), text)
    yield ".SS [[repository.rule]]"
    for key, text in RULE_KEYS.items():
        yield from _item(_bold(key), text)
    yield ".SH EXAMPLE"
    yield from (".nf", *(_escape(line) for line in _example()), ".fi")
    yield ".SH SEE ALSO"
    yield ".BR package\\-cache (1)"


def _example() -> list[str]:
    """The repositories that `config init` shows."""
    lines = [line.removeprefix("#").removeprefix(" ") for line in template().splitlines()]
    begin = lines.index("[[repository]]")
    return lines[begin : lines.index("", lines.index("[[repository.rule]]", begin))]


def _bare(setting: Setting) -> str:
    return setting.text.partition(" (repeat it")[0]


def _value(setting: Setting) -> str:
    if setting.several:
        return f' = ["{_italic(setting.looks)}", ...]'
    if setting.looks and setting.looks != "INT":
        return f' = "{_italic(setting.looks)}"'
    return f" = {_italic(setting.looks or ('INT' if setting.default.isdigit() else 'true|false'))}"


def _head(title: str, section: int, name: str, summary: str) -> Iterator[str]:
    yield '.\\" Made by contrib/dev/generate.py; change what it reads.'
    yield f'.TH {_escape(title)} {section} "{_DATE}" "{_RELEASE}"'
    yield from (".nh", ".ad l", ".SH NAME")
    yield f"{_escape(name)} \\- {_escape(summary)}"


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        if number:
            yield ".PP"
        yield from _filled(text)


def _item(tag: str, text: str) -> Iterator[str]:
    """`tag` is roff, `text` is not."""
    yield from (".TP", tag, *_filled(_sentence(text)))


def _filled(text: str) -> Iterator[str]:
    """Lines of roff that it makes one paragraph of."""
    for line in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False):
        yield _escape(line)


def _joined(names: list[str]) -> Iterator[str]:
    yield f"{', '.join(names[:-1])} and {names[-1]}."


def _names(option: Option) -> str:
    value = f" {_italic(option.value)}" if option.value else ""
    return ", ".join(_bold(name) for name in option.names) + value


def _sentence(text: str) -> str:
    """With a capital, unless it begins with what is not a word, and with a full stop."""
    first = text.partition(" ")[0]
    begun = text[0].upper() + text[1:] if first.rstrip(":;").isalpha() and first.islower() else text
    return begun if begun.endswith((".", "?", "!")) else f"{begun}."


def _bold(text: str) -> str:
    return f"\\fB{_escape(text)}\\fR"


def _italic(text: str) -> str:
    return f"\\fI{_escape(text)}\\fR"


def _escape(text: str) -> str:
    """Text as roff shows it as it is; a hyphen within a word of letters alone may become a break, others are minuses."""
    lines = []
    for line in text.replace("\\", "\\e").split("\n"):
        words = [
            word if re.fullmatch(r"\W*[a-z]+(-[a-z]+)+\W*", word) else word.replace("-", "\\-") for word in line.split(" ")
        ]
        shown = " ".join(words)
        lines.append(f"\\&{shown}" if shown.startswith((".", "'")) else shown)
    return "\n".join(lines)
