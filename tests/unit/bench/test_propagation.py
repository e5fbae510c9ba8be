"""What tells that a change is in force: each of the kernels must have said so."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gureum.bench import propagation
from gureum.bench.propagation import Monitors
from gureum.bench.servers import BenchError

SET, KEY = b"in_4p_sg-1", b"\x06\0\0\0\x4e\x21"

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    yield made
    for pair in made:
        for each in pair:
            each.close()


def monitors(pairs: list[Pair]) -> Monitors:
    return Monitors({"one": pairs[0][0], "other": pairs[1][0]})


def test_the_last_one_counts(pairs: list[Pair]) -> None:
    (_, slow), (_, quick) = pairs
    quick.send(b"new " + SET + b" " + KEY)
    slow.send(b"new " + SET + b" and another key")
    slow.send(b"another set " + KEY)
    later = threading.Timer(0.2, lambda: slow.send(SET + KEY))
    began = time.monotonic()
    later.start()
    assert monitors(pairs).until((SET, KEY)) - began >= 0.2
    later.join()


def test_what_never_comes_is_named(pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "CHANGE_SECONDS_MAX", 0.1)
    pairs[1][1].send(SET + KEY)
    with pytest.raises(BenchError, match=r"in one$"):
        monitors(pairs).until((SET, KEY))
