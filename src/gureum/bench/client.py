"""A load client: one connection, one signed request again and again, as fast as it is answered.

    python client.py HOST PORT SECONDS < request

Standard library only, and nothing but the socket in the loop, so that the server is what is measured. Writes
JSON: the answers' count, the seconds, and the latencies' p50 and p99 in milliseconds.
"""

from __future__ import annotations

import json
import socket
import sys
import time

ANSWER_BYTES_MAX = 64 * 1024 * 1024
HEAD_BYTES_MAX = 64 * 1024
ANSWER_SECONDS = 30.0
WARM_UP_SHARE = 0.2


class Connection:
    """A connection that is kept as long as the server keeps it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._socket: socket.socket | None = None

    def exchange(self, request: bytes) -> bytes:
        """Send the request, return the answer's body. Raises OSError, also where it is no success."""
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=ANSWER_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive(65536)
            if len(answer) > HEAD_BYTES_MAX and b"\r\n\r\n" not in answer:
                raise ConnectionError("an answer without an end of its head")
        head, _, body = answer.partition(b"\r\n\r\n")
        fields = {
            name.strip().lower(): value.strip().lower()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        missing = int(fields[b"content-length"]) - len(body)
        if missing > ANSWER_BYTES_MAX:
            raise ConnectionError(f"an answer of {missing} bytes")
        parts = [body]
        while missing > 0:
            parts.append(self._receive(min(missing, 1 << 20)))
            missing -= len(parts[-1])
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            raise ConnectionError(f"{head.splitlines()[0]!r}: {b''.join(parts)[:300]!r}")
        if fields.get(b"connection") == b"close":
            self.close()
        return b"".join(parts)

    def _receive(self, size: int) -> bytes:
        assert self._socket is not None
        chunk = self._socket.recv(size)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        return chunk

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def load(host: str, port: int, seconds: float, request: bytes) -> dict[str, float]:
    """Repeat the request for so long, after a share of that time to warm up."""
    connection = Connection(host, port)
    warm = time.monotonic() + seconds * WARM_UP_SHARE
    while time.monotonic() < warm:
        connection.exchange(request)
    latencies = []
    began = now = time.monotonic()
    while now < began + seconds:
        connection.exchange(request)
        after = time.monotonic()
        latencies.append(after - now)
        now = after
    connection.close()
    latencies.sort()
    return {
        "count": len(latencies),
        "seconds": now - began,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)],
    }


if __name__ == "__main__":
    result = load(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.stdin.buffer.read())
    sys.stdout.write(json.dumps(result) + "\n")
