"""Runs of all modes, as a campaign has them."""

from __future__ import annotations

import pytest

from gureum.sim.campaign import Campaign, one
from gureum.sim.modes import MODES, runs

FIRST = 100
ROUNDS = 12


def test_each_mode_comes_to_rest() -> None:
    todo = list(runs(FIRST, len(MODES)))
    done = {each.mode: each for each in Campaign(todo, jobs=2).run()}
    assert [run.mode for run in todo] == list(MODES)
    assert {(each.mode, each.seed) for each in done.values()} == set(todo)
    assert {each.violation for each in done.values()} == {""}
    assert all(each.calls and each.virtual_seconds and each.cpu_seconds for each in done.values())


@pytest.mark.parametrize("which", range(1, 1 + ROUNDS))
def test_random_calls_under_random_faults_come_to_rest(which: int) -> None:
    """With those of the other files, CI has more than 500 runs."""
    for run in runs(FIRST + which, len(MODES)):
        assert one(run).violation == "", run
