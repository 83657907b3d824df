"""A registry of npm that answers audits: a POST that is passed on."""

from pathlib import Path

from origin import Origin

AUDIT = "/-/npm/v1/security/advisories/bulk"


def configured(folder: Path, *sources: Origin, more: str = "") -> Path:
    """A file of configuration with a registry of npm."""
    path = folder / "config.toml"
    urls = ", ".join(f'"{one.url}"' for one in sources)
    path.write_text(f"""
        [[repository]]
        name = "npm"
        prefix = "/npm/"
        sources = [{urls}]
        preset = "npm"
        {more}
    """)
    return path
