from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gureum.bench import flow

ADDRESS = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[int]:
    """A server's, on this machine."""
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        number: int = free.getsockname()[1]
    argv = [sys.executable, "-m", "gureum.bench.flow", "serve", ADDRESS, str(number)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield number
        server.kill()


def test_bytes_are_counted_where_they_arrive(port: int) -> None:
    assert flow.send(ADDRESS, port, 0.05) > flow.CHUNK_BYTES
    assert flow.send(ADDRESS, port, 0.05) > flow.CHUNK_BYTES


def test_answers_take_some_time(port: int) -> None:
    assert 0 < flow.ask(ADDRESS, port, 0.05) < 1


def test_answers_cost_both_ends_something(port: int) -> None:
    assert 0 < flow.cost(ADDRESS, port, 0.05) < 1


def test_the_command_prints_a_number(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    flow.main(["ask", ADDRESS, str(port), "0.05"])
    assert float(capsys.readouterr().out) > 0
