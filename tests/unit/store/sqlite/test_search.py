from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator

import pytest

from gureum.errors import StoreError
from gureum.resources import Instance, NetworkInterface, Vpc
from gureum.store.sqlite import queries
from gureum.store.sqlite.connection import MEMORY, open_writer
from gureum.store.sqlite.search import PROBE_VALUES_MAX, Search


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = open_writer(MEMORY)
    entries = [
        ("instance", field, value, f"i-{number:04}")
        for number in range(1200)
        for field, value in (
            ("account", "a"),
            ("state", "pending" if number == 7 else "running"),
            ("host", f"host-{number % 3}"),
        )
    ]
    connection.executemany(queries.INSERT_ENTRY, entries)
    yield connection
    connection.close()


def plan(connection: sqlite3.Connection, search: Search) -> list[str]:
    """The tables that SQLite goes through, outermost first, without the lists of values."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    search.ids(connection, "", 10)
    connection.set_trace_callback(None)
    rows = connection.execute("EXPLAIN QUERY PLAN " + statements[-1]).fetchall()
    return [row[3] for row in rows if "json_each" not in row[3] and "SUBQUERY" not in row[3]]


SEARCHES: list[dict[str, str | Collection[str]]] = [
    {"account": "a"},
    {"account": ["a", "b"]},
    {"account": "a", "state": "running"},
    {"account": "a", "state": ["running", "pending"], "host": "host-1"},
    {"account": "a", "host": [f"host-{number}" for number in range(PROBE_VALUES_MAX + 1)]},
]


@pytest.mark.parametrize("index", SEARCHES)
def test_no_search_goes_through_a_whole_table(
    connection: sqlite3.Connection, index: dict[str, str | Collection[str]]
) -> None:
    steps = plan(connection, Search(Instance, index))
    assert steps
    assert not [step for step in steps if step.startswith("SCAN")]


def test_a_page_of_one_value_needs_no_sorting(connection: sqlite3.Connection) -> None:
    steps = plan(connection, Search(Instance, {"account": "a", "state": "running"}))
    assert not [step for step in steps if "TEMP B-TREE" in step]


@pytest.mark.parametrize(
    "index", [{"account": "a", "state": "pending"}, {"state": "pending", "account": "a"}]
)
def test_the_rarest_condition_drives(
    connection: sqlite3.Connection, index: dict[str, str | Collection[str]]
) -> None:
    search = Search(Instance, index)
    assert [condition.field for condition in search._by_selectivity(connection)] == ["state", "account"]
    assert search.ids(connection, "", -1) == ["i-0007"]


def test_many_values_are_joined_not_probed(connection: sqlite3.Connection) -> None:
    hosts = [f"host-{number}" for number in range(1, 40)]
    search = Search(Instance, {"host": hosts, "state": "running", "account": "a"})
    assert search.ids(connection, "i-0003", 3) == ["i-0004", "i-0005", "i-0008"]
    assert search.count(connection) == 799


def test_matches_agrees_with_the_index() -> None:
    record = NetworkInterface(
        id="eni-1", account="a", vpc="v", subnet="s", zone="z", mac="m", private_ip="", groups=("x", "y")
    )
    assert Search(NetworkInterface, {"groups": ["z", "y"], "account": "a"}).matches(record)
    assert not Search(NetworkInterface, {"groups": "z", "account": "a"}).matches(record)
    assert not Search(NetworkInterface, {"instance": ["i", ""]}).matches(record)
    assert Search(NetworkInterface, {}).matches(record)


def test_what_cannot_match() -> None:
    assert Search(Vpc, {"account": []}).hopeless
    assert Search(Vpc, {"account": "\ud800"}).hopeless
    assert not Search(Vpc, {"account": ["\ud800", "a"]}).hopeless
    with pytest.raises(StoreError):
        Search(Vpc, {"cidr": "x"})
