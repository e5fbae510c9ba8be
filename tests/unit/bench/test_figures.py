"""What a promise is, and how the table shows it."""

import pytest

from gureum.bench.figures import HEADER, Figure, Promise, compare, machine, rows


@pytest.mark.parametrize(
    ("promise", "value", "peer", "met"),
    [
        (Promise(limit=100), 100, None, True),
        (Promise(limit=100), 100.1, None, False),
        (Promise(limit=1.25, of="ratio"), 5, 4, True),
        (Promise(limit=1.25, of="ratio"), 5.1, 4, False),
        (Promise(limit=5, of="ratio", at="least"), 500, 100, True),
        (Promise(limit=5, of="ratio", at="least"), 499, 100, False),
        (Promise(limit=5, of="ratio", at="least"), 499, None, False),
        (None, 1, 1, None),
    ],
)
def test_promises(promise: Promise | None, value: float, peer: float | None, met: bool | None) -> None:
    assert Figure(name="x", value=value, unit="s", peer=peer, promise=promise).is_met is met


def test_medians_are_compared() -> None:
    figure = compare("x", "ms", [1, 9, 2], [4, 4, 100])
    assert (figure.value, figure.peer, figure.ratio) == (2, 4, 0.5)


def test_the_table_has_a_cell_for_each_heading() -> None:
    promise = Promise(limit=5, of="ratio", at="least")
    shown = rows(
        [
            Figure(name="calls", value=12345.6, unit="/s", peer=100, peer_name="moto", promise=promise),
            Figure(name="memory", value=151.25, unit="MB", promise=Promise(limit=150)),
            Figure(name="just so", value=0.123, unit="s"),
        ]
    )
    assert shown == [
        ("calls", "12,346 /s", "100.0 /s", "moto", "123.46", ">= 5 x", "yes"),
        ("memory", "151.2 MB", "-", "", "-", "<= 150 MB", "NO"),
        ("just so", "0.12 s", "-", "", "-", "-", ""),
    ]
    assert {len(row) for row in shown} == {len(HEADER)}


def test_the_document_has_what_the_table_has() -> None:
    figure = Figure(name="x", value=3, unit="s", peer=2, promise=Promise(limit=1))
    document = figure.document()
    assert (document["ratio"], document["met"], document["value"]) == (1.5, False, 3)


def test_the_machine_is_described() -> None:
    assert {"cores", "cpu", "memory_gib", "load"} <= machine().keys()
