"""Writes what is made from the program: the manual and the completions, from the parsers of the command and the table of
settings; and the reference of the Python API, from the docstrings."""

from pathlib import Path

import completion
import manual
import reference

CONTRIB = Path(__file__).parent.parent


def generated() -> dict[Path, str]:
    """Each file, with its text."""
    return {
        CONTRIB / "man/package-cache.1": manual.command_page(),
        CONTRIB / "man/package-cache.toml.5": manual.file_page(),
        CONTRIB / "completion/package-cache.bash": completion.bash(),
        CONTRIB / "completion/_package-cache": completion.zsh(),
        CONTRIB / "completion/package-cache.fish": completion.fish(),
        CONTRIB / "doc/api.md": reference.page(),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
