"""One end of a TCP flow, as a process: how fast it goes, how long an answer takes, what that costs.

    python -m gureum.bench.flow serve ADDRESS PORT
    python -m gureum.bench.flow send ADDRESS PORT SECONDS      prints bytes a second
    python -m gureum.bench.flow ask ADDRESS PORT SECONDS       prints seconds to an answer, the median
    python -m gureum.bench.flow cost ADDRESS PORT SECONDS      prints seconds of processor time for an answer

The server takes one connection after another; the first byte of each says what it is for: "s" to be sent to,
"a" to be asked, "c" to be asked and to tell its processor time at the end. Standard library only, so that it
starts at once.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time

CHUNK_BYTES = 1 << 18
CONNECT_SECONDS_MAX = 10.0
CONGESTION = b"cubic"
"""Linux' default, so most guests'. A machine's own may be BBR, which sends by timers, as fast as it has
estimated the way to be: what is compared are then two estimates.
"""


def serve(address: str, port: int) -> None:
    listener = socket.create_server((address, port))
    _say("ready")
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            kind = connection.recv(1)
            if kind == b"s":
                received = _sink(connection)
                connection.sendall(received.to_bytes(8, "big"))
            elif kind in (b"a", b"c"):
                began = time.process_time_ns()
                while data := connection.recv(64):
                    connection.sendall(data)
                if kind == b"c":
                    connection.sendall((time.process_time_ns() - began).to_bytes(8, "big"))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _sink(connection: socket.socket) -> int:
    buffer = bytearray(CHUNK_BYTES)
    received = 0
    while count := connection.recv_into(buffer):
        received += count
    return received


def _connect(address: str, port: int) -> socket.socket:
    connection = socket.create_connection((address, port), CONNECT_SECONDS_MAX)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def send(address: str, port: int, seconds: float) -> float:
    """Bytes a second that arrived."""
    data = bytes(CHUNK_BYTES)
    with _connect(address, port) as connection:
        connection.sendall(b"s")
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
        return received / (time.perf_counter() - began)


def ask(address: str, port: int, seconds: float) -> float:
    """The median time of a byte there and back."""
    with _connect(address, port) as connection:
        connection.sendall(b"a")
        times: list[float] = []
        end = time.perf_counter() + seconds
        before = time.perf_counter()
        while before < end:
            connection.sendall(b"x")
            connection.recv(1)
            after = time.perf_counter()
            times.append(after - before)
            before = after
    return statistics.median(times)


def cost(address: str, port: int, seconds: float) -> float:
    """The processor time of both ends for a byte there and back; the kernel's on the way is theirs."""
    with _connect(address, port) as connection:
        connection.sendall(b"c")
        count = 0
        began, end = time.process_time_ns(), time.perf_counter() + seconds
        while time.perf_counter() < end:
            connection.sendall(b"x")
            connection.recv(1)
            count += 1
        own = time.process_time_ns() - began
        connection.shutdown(socket.SHUT_WR)
        other = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
    return (own + other) / 1e9 / count


def _pin(last: bool) -> None:
    """Each end on a processor of its own: where the scheduler puts them makes more than any device does. For
    what it costs, both on one.
    """
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[-1 if last else 0]})


def main(arguments: list[str]) -> None:
    what, address, port = arguments[0], arguments[1], int(arguments[2])
    _pin(what in ("serve", "cost"))
    if what == "serve":
        serve(address, port)
    else:
        _say(str({"send": send, "ask": ask, "cost": cost}[what](address, port, float(arguments[3]))))


if __name__ == "__main__":
    main(sys.argv[1:])
