"""The DHCPv6 server of one port: a socket on its tap."""

from __future__ import annotations

import logging
import socket
import struct

from gureum.errors import NetworkError
from gureum.network.datagrams import RECEIVE_BUFFER_BYTES, Datagrams, Message
from gureum.network.dhcp6 import CLIENT_PORT, SERVER_PORT, Lease6, answer, parse

log = logging.getLogger(__name__)

ALL_SERVERS = "ff02::1:2"


def listen(tap: str) -> socket.socket:
    """A socket for the server, made in the calling thread's namespace."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        index = socket.if_nametoindex(tap)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, tap.encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        group = socket.inet_pton(socket.AF_INET6, ALL_SERVERS) + struct.pack("=I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        sock.bind(("::", SERVER_PORT))
    except OSError as error:
        sock.close()
        raise NetworkError(f"cannot serve DHCPv6 on {tap}: {error.strerror}") from error
    return sock


class Dhcp6Server(Datagrams):
    """Answers from ``lease``, which may be replaced at any time."""

    def __init__(self, sock: socket.socket, lease: Lease6) -> None:
        super().__init__(sock, "DHCPv6")
        self.lease = lease

    def serve(self, message: Message) -> None:
        asked = parse(message.data)
        reply = answer(asked, self.lease) if asked else None
        if reply is None:
            return
        try:
            # The socket's device decides where a link-local address is.
            self.socket.sendto(reply, (message.sender, CLIENT_PORT))
        except OSError as error:
            # The guest's queue is full or its tap goes away; it will ask again.
            log.debug("DHCPv6 reply to %s not sent: %s", message.sender, error)
