"""The completions for bash, zsh and fish, from the parsers."""

import re
from collections.abc import Iterable, Iterator

from parsers import Argument, Command, Option, all_commands, server

_FILES = {"FILE", "PATH"}
_DIRECTORIES = {"DIR"}
_NOTE = "# Made by contrib/dev/generate.py; change what it reads."


def bash() -> str:
    """Completion for bash."""
    commands = all_commands()
    everything = [server(), *commands]
    lines = [_NOTE, "", "_package_cache_files() {", "\tcompopt -o filenames 2>/dev/null"]
    lines += ['\tmapfile -t COMPREPLY < <(compgen "$1" -- "$2")', "}", "", "_package_cache() {"]
    lines += [
        '\tlocal current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command="" options="" words=""'
    ]
    lines += ["\tCOMPREPLY=()", "\tcase ${COMP_WORDS[1]} in"]
    lines += [f"\t{'|'.join(one.name for one in commands)})"]
    lines += ["\t\t((COMP_CWORD > 1)) && command=${COMP_WORDS[1]}", "\t\t;;", "\tesac"]
    lines += ["\tcase $command:$previous in", *_bash_values(everything), "\tesac"]
    lines += ["\tcase $command in"]
    for one in everything:
        names = " ".join(name for option in one.options for name in option.names)
        words = " ".join(word for argument in one.arguments for word in argument.choices)
        files = next((kind for argument in one.arguments if (kind := _bash_files(argument.name))), "")
        lines += [f'\t"{one.name}")', f'\t\toptions="{names} --help{"" if one.name else " --version"}"']
        lines += [f'\t\twords="{words}"'] if words else []
        lines += [f"\t\t[[ $current == -* ]] || {files}"] if files else []
        lines += ["\t\t;;"]
    lines += ["\tesac"]
    lines += [f'\t((COMP_CWORD == 1)) && words="{" ".join(one.name for one in commands)}"']
    lines += ["\t[[ $current == -* ]] && words=$options"]
    lines += [
        "\tlocal IFS=$' \\t\\n'",
        '\tmapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$words" -- "$current")',
        "}",
    ]
    lines += ["", "complete -F _package_cache package-cache", ""]
    return "\n".join(lines)


def _bash_values(everything: Iterable[Command]) -> Iterator[str]:
    """The branches for the word behind an option that takes a value."""
    kinds: dict[str, list[str]] = {}
    for one in everything:
        for option in one.options:
            if option.value:
                kinds.setdefault(_bash_value(option), []).extend(f"{one.name}:{name}" for name in option.names)
    for action, places in kinds.items():
        yield f"\t{'|'.join(places)})"
        if action:
            yield f"\t\t{action}"
        yield from ("\t\treturn", "\t\t;;")


def _bash_value(option: Option) -> str:
    if option.choices:
        return f'mapfile -t COMPREPLY < <(compgen -W "{" ".join(option.choices)}" -- "$current")'
    return _bash_files(option.value)


def _bash_files(value: str) -> str:
    if value in _FILES | _DIRECTORIES:
        return f'_package_cache_files -{"d" if value in _DIRECTORIES else "f"} "$current"'
    return ""


def zsh() -> str:
    """Completion for zsh."""
    commands = all_commands()
    lines = ["#compdef package-cache", _NOTE, "", "_package_cache_commands() {", "\tlocal -a commands=("]
    lines += [f"\t\t{_zsh_quoted(f'{one.name}:{one.summary}')}" for one in commands]
    lines += ["\t)", "\t_describe -t commands command commands", "}", ""]
    lines += ["_package_cache() {", "\tif ((CURRENT > 2)); then", "\t\tcase $words[2] in"]
    for one in commands:
        lines += [f"\t\t{one.name})", "\t\t\tshift words", "\t\t\t((CURRENT--))", *_zsh_arguments(one, "\t\t\t")]
        lines += ["\t\t\treturn", "\t\t\t;;"]
    lines += ["\t\tesac", "\tfi", "\t((CURRENT == 2)) && [[ $words[CURRENT] != -* ]] && _package_cache_commands && return"]
    lines += [*_zsh_arguments(server(), "\t"), "}", "", '_package_cache "$@"', ""]
    return "\n".join(lines)


def _zsh_arguments(one: Command, indent: str) -> Iterator[str]:
    specs = [_zsh_quoted("(- *)--help[say how it is used]")]
    for option in one.options:
        repeated = (
            "*" if "(repeat it" in option.text or "(default: everybody)" in option.text or "-v" in option.names else ""
        )
        value = (
            f":{option.value.replace(':', chr(92) + ':')}:{_zsh_action(option.choices, option.value)}"
            if option.value
            else ""
        )
        specs += [_zsh_quoted(f"{repeated}{name}[{_zsh_text(option.text)}]{value}") for name in option.names]
    specs += [_zsh_quoted(_zsh_argument(argument)) for argument in one.arguments]
    yield f"{indent}_arguments -S \\"
    for number, spec in enumerate(specs, 1):
        yield f"{indent}\t{spec}" + (" \\" if number < len(specs) else "")


def _zsh_argument(argument: Argument) -> str:
    return f"{'' if argument.needed else ':'}:{argument.name}:{_zsh_action(argument.choices, argument.name)}"


def _zsh_action(choices: Iterable[str], value: str) -> str:
    if words := " ".join(choices):
        return f"({words})"
    return "_files" if value in _FILES else "_files -/" if value in _DIRECTORIES else " "


def _zsh_text(text: str) -> str:
    return re.sub(r"([\[\]\\:])", r"\\\1", _brief(text))


def _brief(text: str) -> str:
    """What fits into a line of a list."""
    return text.partition(" (")[0]


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def fish() -> str:
    """Completion for fish."""
    commands = all_commands()
    names = " ".join(one.name for one in commands)
    lines = [_NOTE, "", "complete --command package-cache --no-files"]
    for one in commands:
        lines += [_fish(f"not __fish_seen_subcommand_from {names}", f"--arguments {one.name}", one.summary)]
    for one in (server(), *commands):
        here = f"__fish_seen_subcommand_from {one.name}" if one.name else f"not __fish_seen_subcommand_from {names}"
        lines += [
            _fish(here, _fish_names(option) + _fish_value(option.choices, option.value), option.text)
            for option in one.options
        ]
        lines += [
            _fish(here, what.strip(), argument.text) for argument in one.arguments if (what := _fish_argument(argument))
        ]
    return "\n".join([*lines, ""])


def _fish(condition: str, what: str, text: str) -> str:
    condition, text = _fish_quoted(condition), _fish_quoted(_brief(text))
    return f"complete --command package-cache --condition {condition} {what} --description {text}"


def _fish_names(option: Option) -> str:
    return " ".join(
        f"--long-option {name[2:]}" if name.startswith("--") else f"--short-option {name[1:]}" for name in option.names
    )


def _fish_value(choices: Iterable[str], value: str) -> str:
    if not value:
        return ""
    if words := " ".join(choices):
        return f" --require-parameter --arguments {_fish_quoted(words)}"
    return " --require-parameter --force-files" if value in _FILES | _DIRECTORIES else " --require-parameter"


def _fish_argument(argument: Argument) -> str:
    return _fish_value(argument.choices, argument.name).replace(" --require-parameter", "")


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
