"""What the parsers of the command know, as plain values: the one source of --help, the manual and the completions."""

import argparse
from dataclasses import dataclass

from package_cache.cli import arguments, commands

COMMON = ("--config", "--cache", "--verbose")
"""What every command takes."""


@dataclass(frozen=True)
class Option:
    """An option. `value` is what its value looks like, "" for a switch; `choices` are the words that it may be."""

    names: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    text: str
    group: str

    @property
    def long(self) -> str:
        return next(name for name in self.names if name.startswith("--"))


@dataclass(frozen=True)
class Argument:
    """A word that is no option."""

    name: str
    choices: tuple[str, ...]
    text: str
    needed: bool


@dataclass(frozen=True)
class Command:
    """A command, or with an empty name the server. `paragraphs` is what --help says above the options."""

    name: str
    summary: str
    paragraphs: tuple[str, ...]
    end: str
    arguments: tuple[Argument, ...]
    options: tuple[Option, ...]
    serves: bool = False

    @property
    def own(self) -> tuple[Option, ...]:
        """The options that not every command has, nor the server where the command takes those of the server."""
        known = {one.long for one in server().options} if self.serves else set(COMMON)
        return tuple(one for one in self.options if one.long not in known)


def server() -> Command:
    """The command that serves."""
    it = arguments.build_parser(commands.summaries())
    return _read(it, "", "a caching proxy for package downloads")


def all_commands() -> list[Command]:
    """The others, in their order."""
    found = []
    for name, home in commands.COMMANDS.items():
        command = commands.load(name)
        found.append(_read(commands.build_parser(name, command), name, home.summary, command.like_serving))
    return found


def _read(it: argparse.ArgumentParser, name: str, summary: str, serves: bool = False) -> Command:
    options, positional = [], []
    for group in it._action_groups:
        for action in group._group_actions:
            if isinstance(action, argparse._HelpAction | argparse._VersionAction):
                continue
            if action.option_strings:
                options.append(_option(action, group.title or ""))
            else:
                needed = action.nargs not in ("?", "*")
                choices = tuple(action.choices or ())
                positional.append(Argument(str(action.metavar or action.dest), choices, _text(action), needed))
    described = (it.description or "").strip()
    paragraphs = described.removeprefix(f"{summary[0].upper()}{summary[1:]}.\n").split("\n\n") if name else [described]
    end = (it.epilog or "").strip().rpartition("\n\n")[2]
    told = tuple(" ".join(one.split()) for one in paragraphs if one.strip())
    return Command(name, summary, told, " ".join(end.split()), tuple(positional), tuple(options), serves)


def _option(action: argparse.Action, group: str) -> Option:
    value = "" if action.nargs == 0 else str(action.metavar or "|".join(action.choices or ()))
    words = tuple(action.choices or ()) or tuple(word for word in value.split("|") if word.islower() and "|" in value)
    return Option(tuple(sorted(action.option_strings, key=len)), value, words, _text(action), group)


def _text(action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": "package-cache"}
