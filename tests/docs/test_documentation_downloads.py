"""The examples of the guide's section on downloads run as they are written, but for the servers' names."""

import bz2
import gzip
import hashlib
import json
import re
import time
from pathlib import Path

import pytest
from documentation import fenced, section
from origin import Origin, Say

TABLE = gzip.compress(b"a\tb\n1\t2\n", mtime=0)


def test_the_examples_run(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "ids.txt").write_text("P04637\n")
    origin.put("/table.tsv.gz", TABLE, content_type="application/gzip")
    origin.put("/search?organism=9606&format=tsv&format=gz", b"found")
    origin.put("/api", b"", Say(403))
    origin.put("/upload", b"mapped")
    document = {"metadata": {"timestamp": int(time.time()), "ttl": 3600}, "data": {"up": True}}
    origin.put("/status.json.bz2", bz2.compress(json.dumps(document).encode()))
    names: dict[str, object] = {}
    for text in fenced(section("library", "Downloads"), "python"):
        code = text.replace("{sha256}", hashlib.sha256(TABLE).hexdigest())
        exec(re.sub(r"http://(mirror|other)\.example/", origin.url, code), names)
    said = capsys.readouterr().out
    assert Path(str(names["path"])).read_bytes() == TABLE
    assert names["data"].read() == TABLE  # type: ignore[attr-defined]
    assert Path("out.gz").read_bytes() == TABLE
    assert "confirmed the server says that it has not changed" in said
    assert "['a', 'b']\n['1', '2']" in said
    assert f"False 404 {origin.url}none answered 404" in said
    assert "403 False" in said
    assert names["large"]
    assert "{'up': True}" in said
    names["manager"].close()  # type: ignore[attr-defined]
