"""When machines may run."""

from __future__ import annotations

import pytest

from gureum.agent.warden.custody import (
    LEASE_COUNTS_SECONDS,
    LEASE_SECONDS,
    SILENCE_SECONDS_MIN,
    WORD_COUNTS_SECONDS,
    Custody,
    Decision,
    Marks,
)


def test_what_counts_here_is_over_before_the_other_side_goes_on() -> None:
    assert LEASE_COUNTS_SECONDS <= LEASE_SECONDS - 1
    assert WORD_COUNTS_SECONDS <= SILENCE_SECONDS_MIN - 1


def test_nothing_runs_before_there_is_a_permission() -> None:
    custody = Custody()
    assert custody.decide(0.1) is Decision.freeze
    assert custody.until == 0.0
    assert "not reached yet" in custody.silence(0.1)


def test_a_lease_counts_from_when_its_renewal_was_begun() -> None:
    custody = Custody()
    custody.renewed(100.0, Marks())
    assert custody.decide(103.9) is Decision.run
    assert custody.decide(104.0) is Decision.freeze
    custody.renewed(105.0, Marks())
    custody.renewed(101.0, Marks())  # answered late
    assert custody.until == 109.0
    assert custody.silence(110.0).startswith("the storage cluster was last reached 5.0 s ago")


def test_the_managers_word_counts_from_when_the_report_was_sent() -> None:
    custody = Custody()
    custody.heard(100.0, now=102.5)
    assert custody.decide(102.9) is Decision.run
    assert custody.decide(103.0) is Decision.freeze


def test_either_is_enough() -> None:
    custody = Custody()
    custody.renewed(100.0, Marks())
    custody.heard(103.5, now=103.6)
    assert custody.decide(105.0) is Decision.run
    custody.lost_lease()
    assert custody.decide(105.0) is Decision.run
    assert custody.until == 106.5


def test_a_word_of_the_future_is_of_another_boot() -> None:
    custody = Custody()
    custody.heard(5000.0, now=20.0)
    assert custody.decide(20.0) is Decision.freeze


def test_what_an_earlier_warden_had_counts_on() -> None:
    custody = Custody(lease_until=50.0)
    assert custody.decide(49.0) is Decision.run
    assert custody.decide(50.0) is Decision.freeze


def test_a_fence_is_above_lease_and_word() -> None:
    custody = Custody()
    custody.renewed(100.0, Marks(fence=7))
    custody.heard(100.0, now=100.1)
    assert custody.decide(100.2) is Decision.kill
    assert custody.until == 0.0
    custody.marked(Marks(killed=7))
    assert custody.decide(100.3) is Decision.kill
    assert custody.fenced
    custody.marked(Marks(fence=7, lifted=7))
    assert custody.decide(100.4) is Decision.run


def test_machines_of_before_a_fence_that_came_and_went_are_ended() -> None:
    custody = Custody()
    custody.renewed(100.0, Marks(fence=3, lifted=3, killed=3))
    assert custody.decide(101.0) is Decision.run
    assert custody.decide(200.0) is Decision.freeze
    custody.renewed(201.0, Marks(fence=9, lifted=9, killed=3))
    assert not custody.fenced
    assert custody.decide(201.1) is Decision.kill
    custody.marked(Marks(killed=9))
    assert custody.decide(201.2) is Decision.run


def test_marks_never_become_less() -> None:
    custody = Custody()
    custody.marked(Marks(9, 8, 8))
    custody.marked(Marks(3, 9, 1))
    assert custody.marks == (9, 9, 8)


@pytest.mark.parametrize(
    ("now", "stopped", "marks", "expected"),
    [
        (100.0, False, Marks(), True),  # the manager's word holds
        (103.0, False, Marks(), False),  # machines run, and only the old lease protects others from them
        (103.0, True, Marks(), True),
        (103.0, True, Marks(fence=1), False),
    ],
)
def test_a_lease_is_taken_over_from_an_earlier_warden(
    now: float, stopped: bool, marks: Marks, expected: bool
) -> None:
    custody = Custody(lease_until=103.5)
    custody.heard(99.5, now=99.5)
    custody.marked(marks)
    assert custody.may_take_over(now, stopped) is expected
