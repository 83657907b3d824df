"""The documents of the project, as tests read them: by section, and by the blocks of code that a reader would paste."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDES = ROOT / "contrib" / "doc"
DOCUMENTS = (
    README,
    *sorted(GUIDES.glob("*.md")),
    *sorted((ROOT / "contrib" / "benchmarks").glob("*.md")),
    *sorted((ROOT / ".github").glob("*.md")),
)
"""All of them."""


def text_of(document: str | Path) -> str:
    """A document, or the guide of that name: `clients`."""
    path = document if isinstance(document, Path) else GUIDES / f"{document}.md"
    return path.read_text(encoding="utf-8")


def headings(text: str) -> list[tuple[int, str]]:
    """Level and text of each heading; what is within a fenced block is none."""
    plain = re.sub(r"(?ms)^```.*?^```$", "", text)
    return [(len(marks), title) for marks, title in re.findall(r"(?m)^(#+) (.+)$", plain)]


def section(document: str | Path, heading: str) -> str:
    """What stands under a heading, up to the next one that is not below it."""
    text = text_of(document)
    [level] = [level for level, title in headings(text) if title == heading]
    rest = text.split(f"\n{'#' * level} {heading}\n", 1)[1]
    return re.split(rf"(?m)^#{{1,{level}}} ", rest)[0]


def fenced(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


def blocks(text: str) -> list[str]:
    """The indented blocks, without their indentation. A block may have empty lines in it."""
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", f"{text}\n", re.MULTILINE)
    return [re.sub(r"(?m)^    ", "", block).strip("\n") + "\n" for block in found]


def files(text: str) -> list[tuple[str, str]]:
    """The files that a reader would write, with what is to stand in them: each begins with its name, behind `# `."""
    # An empty line may stand within a file; the next one begins with its name.
    indented = re.findall(r"(?:^    .*\n|^\n(?=    (?!# )))+", text, re.MULTILINE)
    named = [re.sub(r"(?m)^    ", "", block).strip("\n").partition("\n") for block in indented]
    return [(first.removeprefix("# "), rest + "\n") for first, _, rest in named if re.match(r"# \S+$", first)]
