"""The load client against a server that says what the test wants."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gureum.bench.client import Connection, load

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def server(answers: list[list[bytes]]) -> Iterator[tuple[str, int]]:
    """One connection per inner list, one answer per request on it; then it closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def serve() -> None:
        for each in answers:
            connection, _ = listener.accept()
            with connection:
                for answer in each:
                    if not connection.recv(65536):
                        break
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        thread.join(10)
        listener.close()


def answer(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def test_a_large_answer_is_read_whole() -> None:
    body = b"x" * 3_000_000
    with server([[answer(body), answer(b"second")]]) as (host, port):
        connection = Connection(host, port)
        assert connection.exchange(REQUEST) == body
        assert connection.exchange(REQUEST) == b"second"
        connection.close()


def test_it_connects_again_where_the_server_closes() -> None:
    closing = answer(b"1", more="Connection: close\r\n")
    with server([[closing], [answer(b"2")]]) as (host, port):
        connection = Connection(host, port)
        assert [connection.exchange(REQUEST), connection.exchange(REQUEST)] == [b"1", b"2"]
        connection.close()


@pytest.mark.parametrize(
    "said",
    [answer(b"denied", "403 Forbidden"), answer(b"")[:20], b"", answer(b"half")[:-2]],
    ids=["403", "half a head", "nothing", "half a body"],
)
def test_what_is_no_success_is_an_error(said: bytes) -> None:
    with server([[said]]) as (host, port):
        connection = Connection(host, port)
        with pytest.raises(ConnectionError):
            connection.exchange(REQUEST)
        connection.close()


def test_load_counts_the_answers() -> None:
    with server([[answer(b"x")] * 100_000]) as (host, port):
        result = load(host, port, 0.05, REQUEST)
    assert result["count"] >= 1
    assert 0 < result["p50_ms"] <= result["p99_ms"]
