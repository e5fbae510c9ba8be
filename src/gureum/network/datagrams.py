"""What every small server on a port's tap does: reads what its guest sends, in bounded portions."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys

log = logging.getLogger(__name__)

MESSAGES_AT_ONCE_MAX = 8
"""How many messages are answered before others get their turn."""
MESSAGE_BYTES_MAX = 1500
RECEIVE_BUFFER_BYTES = 16 * 1024
_ANCILLARY_BYTES = 64


class Message:
    """``hops`` is what is left of the hop limit, -1 where the socket does not say."""

    __slots__ = ("data", "hops", "sender")

    def __init__(self, data: bytes, sender: str, hops: int) -> None:
        self.data = data
        self.sender = sender
        self.hops = hops


class Datagrams:
    """A socket that is read whenever there is something. ``serve`` is called for each message."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.socket = sock
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self.socket.fileno())
        self.socket.close()

    def serve(self, message: Message) -> None:
        raise NotImplementedError

    def _readable(self) -> None:
        for _ in range(MESSAGES_AT_ONCE_MAX):
            try:
                data, ancillary, _, sender = self.socket.recvmsg(MESSAGE_BYTES_MAX + 1, _ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("%s: %s", self._name, error)
                return
            hops = [
                int.from_bytes(value[:4], sys.byteorder)
                for level, kind, value in ancillary
                if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)
            ]
            self.serve(Message(data, sender[0], hops[0] if hops else -1))
