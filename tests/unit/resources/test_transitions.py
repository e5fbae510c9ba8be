from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gureum.errors import IllegalTransition
from gureum.resources import KINDS, InstanceState, SnapshotState, VolumeState
from gureum.resources.record import Record, table

WITH_STATES = sorted((kind for kind in KINDS.values() if kind.transitions), key=lambda kind: kind.kind)


def may(kind: type[Record], before: Any, after: Any) -> bool:
    """Whether a record may change its state so; nothing else of it matters."""
    old, new = (
        cast(Record, SimpleNamespace(id="x", kind=kind.kind, state=state, transitions=kind.transitions))
        for state in (before, after)
    )
    try:
        kind.check_transition(new, old)
    except IllegalTransition:
        return False
    return True


@pytest.mark.parametrize("kind", WITH_STATES, ids=lambda kind: kind.kind)
def test_only_what_the_table_says(kind: type[Record]) -> None:
    assert kind.transitions is not None
    states = type(next(iter(kind.transitions)))
    for before in states:
        assert may(kind, before, before)
        reachable = {after for after in states if after is not before and may(kind, before, after)}
        assert reachable == set(kind.transitions.get(before, ()))


def test_nothing_leaves_an_end() -> None:
    for kind, end, states in (
        ("instance", InstanceState.terminated, InstanceState),
        ("snapshot", SnapshotState.deleting, SnapshotState),
        ("volume", VolumeState.deleted, VolumeState),
    ):
        assert not any(may(KINDS[kind], end, after) for after in states if after is not end)


@pytest.mark.parametrize(
    ("kind", "before", "after", "allowed"),
    [
        ("instance", InstanceState.stopped, InstanceState.running, False),
        ("instance", InstanceState.stopped, InstanceState.pending, True),
        ("instance", InstanceState.shutting_down, InstanceState.stopped, False),
        ("volume", VolumeState.deleting, VolumeState.available, False),
        ("volume", VolumeState.error, VolumeState.available, False),
        ("volume", VolumeState.creating, VolumeState.in_use, True),
        ("snapshot", SnapshotState.completed, SnapshotState.error, False),
    ],
)
def test_some_that_matter(kind: str, before: Any, after: Any, allowed: bool) -> None:
    assert may(KINDS[kind], before, after) is allowed


def test_indexes_are_of_fields() -> None:
    for kind in KINDS.values():
        for index in kind.indexes:
            assert hasattr(kind, index), (kind.kind, index)


def test_a_table_names_states_that_exist() -> None:
    with pytest.raises(AssertionError):
        table(InstanceState, asleep="running")
    with pytest.raises(KeyError):
        table(InstanceState, running="asleep")
