"""Runs of all modes, as a campaign has them."""

from __future__ import annotations

import pytest

from gureum.sim.campaign import Campaign, one
from gureum.sim.modes import MODES, mode

FIRST = 100 * len(MODES)
ROUNDS = 12


def test_each_mode_comes_to_rest() -> None:
    work = Campaign(range(FIRST, FIRST + len(MODES)), jobs=1)
    done = list(work.run())
    assert [each.violation for each in done] == [""] * len(MODES)
    assert [each.mode for each in done] == list(MODES)
    assert [each.mode for each in done] == [mode(each.seed) for each in done]
    assert all(each.calls and each.virtual_seconds and each.cpu_seconds for each in done)
    assert work.next == FIRST + len(MODES)


@pytest.mark.parametrize("which", range(1, 1 + ROUNDS))
def test_random_calls_under_random_faults_come_to_rest(which: int) -> None:
    """With those of the other files, CI has more than 500 runs."""
    first = FIRST + which * len(MODES)
    for seed in range(first, first + len(MODES)):
        assert one(seed).violation == "", seed
