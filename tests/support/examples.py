"""How many examples a test of hypothesis has."""

from hypothesis import settings


def examples(number: int) -> int:
    """As many where the profile has 100; `--hypothesis-profile long` has twenty times as many of each."""
    return number * settings().max_examples // 100
