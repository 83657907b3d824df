"""Writes what is made from the parsers of the command and the table of settings: the manual and the completions."""

from pathlib import Path

import completion
import manual

CONTRIB = Path(__file__).parent.parent


def generated() -> dict[Path, str]:
    """Each file, with its text."""
    return {
        CONTRIB / "man/package-cache.1": manual.command_page(),
        CONTRIB / "man/package-cache.toml.5": manual.file_page(),
        CONTRIB / "completion/package-cache.bash": completion.bash(),
        CONTRIB / "completion/_package-cache": completion.zsh(),
        CONTRIB / "completion/package-cache.fish": completion.fish(),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
