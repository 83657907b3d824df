"""Sizes and durations as people write and read them: `200G`, `5%`, `365d`."""

import re
from dataclasses import dataclass

_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_NUMBER = r"(\d{1,15}(?:\.\d{1,6})?)"
_SIZE = re.compile(_NUMBER + r"([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_SHARE = re.compile(_NUMBER + "%", re.ASCII)
_DURATION = re.compile(_NUMBER + "([smhdwy])", re.ASCII)
_SIZE_EXAMPLE = "a size is a number with K, M, G or T (powers of 1024), such as 200G"
_BARE = 1 << 20
"""A number without a unit counts bytes from here on, as programs print them; nobody writes a smaller bound in bytes."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of a file system: a number of bytes, or a part of its size between 0 and 1."""

    bytes: int = 0
    part: float = 0.0

    def of(self, size: int) -> int:
        """The bytes this is of a file system of `size` bytes."""
        return self.bytes or int(self.part * size)


def parse_size(text: str) -> int:
    """Bytes from text such as `200G`. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    size = int(float(match[1]) * _SIZES[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError(f"{text!r} is not a size above 0; {_SIZE_EXAMPLE}")
    return size


def parse_bound(text: str) -> int:
    """Bytes from the text of a bound. Raises ValueError, also for a small number whose unit was probably forgotten."""
    size = parse_size(text)
    if size < _BARE and text[-1].isdigit():
        raise ValueError(f"{text!r} has no unit: write {text}G, {text}M or {text}K, or {text}B for so few bytes")
    return size


def parse_share(text: str) -> Share:
    """Bytes from text such as `10G`, or a part of a file system from `5%`. Raises ValueError."""
    match = _SHARE.fullmatch(text)
    if match and 0 < float(match[1]) < 100:
        return Share(part=float(match[1]) / 100)
    if "%" in text:
        raise ValueError(f"{text!r} is not a percentage between 0% and 100%")
    try:
        parse_size(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a size above 0 nor a percentage; it looks like 10G or 5%") from None
    return Share(parse_bound(text))


def parse_duration(text: str) -> float:
    """Seconds from text such as `365d`. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds < 1e11:
        raise ValueError(f"{text!r} is not a time above 0; it is a number with s, m, h, d, w or y, such as 365d")
    return seconds


def size_text(size: int) -> str:
    """Bytes for people to read, in at most six characters: `1023`, `1.5K`, `200G`."""
    number = float(size)
    for unit in _SIZES:
        if number < 1023.5 or unit == "T":
            break
        number /= 1024
    return f"{number:.0f}{unit}" if not unit or number >= 99.95 else f"{number:.1f}{unit}"


def duration_text(seconds: float) -> str:
    """A time for people to read, in the unit that fits: `45 s`, `3 h`, `265 d`."""
    for unit, size, least in (("d", 86400, 2 * 86400), ("h", 3600, 2 * 3600), ("min", 60, 120)):
        if seconds >= least:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
