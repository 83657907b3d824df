"""What a type checker makes of programs that use the library."""

import subprocess
import sys
from pathlib import Path

RIGHT = """
import io
from pathlib import Path
from typing import assert_type
from package_cache import DownloadManager, Result

def use(manager: DownloadManager, url: str) -> None:
    assert_type(manager.download(url, dest=False), io.BytesIO)
    assert_type(manager.download(url, "out"), str)
    assert_type(manager.download(url, Path("out"), sha256=None), str)
    assert_type(manager.download(url), str | io.BytesIO)
    assert_type(manager.download(url, check=False), str | io.BytesIO | None)
    assert_type(manager.fetch(url), Result)
"""
WRONG = """
from package_cache import DownloadManger, DownloadManager
DownloadManager("cache").download("http://mirror.example/a", sha265=None)
"""


def checked(folder: Path, program: str) -> str:
    file = folder / "program.py"
    file.write_text(program, encoding="utf-8")
    words = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "mypy"), str(file)]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def test_what_a_download_gives_is_known_by_where_it_goes(tmp_path: Path) -> None:
    assert checked(tmp_path, RIGHT).startswith("Success")


def test_a_name_or_an_option_that_is_misspelt_is_found(tmp_path: Path) -> None:
    said = checked(tmp_path, WRONG)
    assert "DownloadManger" in said
    assert "sha265" in said
