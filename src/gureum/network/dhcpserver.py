"""The DHCP server of one port: a socket on its tap."""

from __future__ import annotations

import logging
import socket
import struct
from ipaddress import IPv4Address

from gureum.errors import NetworkError
from gureum.network.datagrams import RECEIVE_BUFFER_BYTES, Datagrams, Message
from gureum.network.dhcp import CLIENT_PORT, SERVER_PORT, Lease, answer, parse

log = logging.getLogger(__name__)

_IP_PKTINFO = 8
_SO_NO_CHECK = 11


def listen(tap: str) -> socket.socket:
    """A socket for the server, made in the calling thread's namespace."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, tap.encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # None is better than one left to hardware: some clients read the raw packet and find it wrong.
        sock.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.bind(("0.0.0.0", SERVER_PORT))
    except OSError as error:
        sock.close()
        raise NetworkError(f"cannot serve DHCP on {tap}: {error.strerror}") from error
    return sock


class DhcpServer(Datagrams):
    """Answers from ``lease``, which may be replaced at any time."""

    def __init__(self, sock: socket.socket, lease: Lease) -> None:
        super().__init__(sock, f"DHCP for {lease.address}")
        self.lease = lease

    def serve(self, message: Message) -> None:
        asked = parse(message.data)
        reply = answer(asked, self.lease) if asked else None
        if reply is None:
            return
        source = struct.pack("=I4s4s", 0, IPv4Address(self.lease.router).packed, bytes(4))
        try:
            self.socket.sendmsg(
                [reply.data], [(socket.IPPROTO_IP, _IP_PKTINFO, source)], 0, (reply.to, CLIENT_PORT)
            )
        except OSError as error:
            # The guest's queue is full or its tap goes away; it will ask again.
            log.debug("DHCP reply to %s not sent: %s", self.lease.address, error)
