"""Random schedules of clients, mirrors, faults and kills, held against a model of what a client may be told.

`--model-runs 2000` plays more of them, `--model-seed N` the same ones again.
"""

import itertools
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faulty import Nursery
from model import Schedule, schedule, shorten, trial

AT_ONCE = 4
"""Schedules played side by side: each waits most of its time."""


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given = request.config.getoption("--model-seed")
    return random.SystemRandom().randrange(1_000_000) if given is None else int(given)


@pytest.fixture
def runs(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--model-runs"))


def play(nursery: Nursery, room: Path, schedules: list[Schedule]) -> None:
    """All of them; the first that fails is told in full, and as short as it can be made."""
    numbers = itertools.count()

    def problem(plan: Schedule) -> str:
        place = room / str(next(numbers))
        said = trial(nursery, place, plan)
        shutil.rmtree(place)
        return said

    print(f"--model-seed {schedules[0].seed}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = [(plan, pool.submit(problem, plan)) for plan in schedules]
        for plan, answer in answers:
            if answer.result():
                pool.shutdown(cancel_futures=True)
                least = shorten(plan, lambda one: bool(problem(one)))
                pytest.fail(f"{answer.result()}\n{plan}\n\nas short as it fails, too:\n{least}", pytrace=False)


@pytest.mark.timeout(0)
def test_every_client_gets_what_was_published_or_sees_that_it_does_not(
    nursery: Nursery, tmp_path: Path, seed: int, runs: int
) -> None:
    play(nursery, tmp_path, [schedule(seed + number) for number in range(runs)])


@pytest.mark.timeout(0)
def test_the_same_holds_for_the_workers_of_gunicorn(nursery: Nursery, tmp_path: Path, seed: int, runs: int) -> None:
    play(nursery, tmp_path, [schedule(seed + number, workers=True) for number in range(max(1, runs // 10))])
