"""The flows of a port that moves to another host: taken along, so that what was established there goes on.

Under any rules: a packet in the middle of a connection that the new host does not know would be a new flow to
it, for which no rule may be. Translations go along too.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

import msgspec

from gureum.errors import NetworkError
from gureum.network import conntrack
from gureum.network.conntrack import TUPLE_ORIGINAL, TUPLE_REPLY, attribute, attributes

FLOWS_MAX = 65536
"""More than a port can have."""
_STATUS, _PROTOCOL_STATE, _NAT_SOURCE, _TIMEOUT, _NAT_TARGET = 3, 4, 6, 7, 13
_IP, _PROTOCOL = 1, 2
_NUMBER, _SOURCE_PORT, _TARGET_PORT, _ICMP_ID, _ICMP6_ID = 1, 2, 3, 4, 7
_SEEN_REPLY, _ASSURED, _CONFIRMED = 2, 4, 8
_TCP = 1
_TCP_FLAGS = (4, 5)
_BE_LIBERAL = 8
"""The sequence numbers that were seen so far stay behind, so they are not insisted on."""


class Flow(msgspec.Struct, frozen=True, array_like=True):
    """As the kernel told it: attributes of its two directions and of its state, undecoded."""

    family: int
    original: bytes
    reply: bytes
    status: bytes
    timeout: bytes
    state: bytes


class Flows(msgspec.Struct, frozen=True, kw_only=True):
    version: int = 1
    flows: list[Flow]


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """What two namespaces know, as ``export`` tells it: the VPC's, and its host's."""

    inside: bytes
    outside: bytes


def carried(data: bytes) -> Carried:
    """Raises NetworkError."""
    try:
        return msgspec.msgpack.decode(data, type=Carried)
    except msgspec.MsgspecError as error:
        raise NetworkError(f"these are no flows: {error}") from None


def export(addresses: Collection[str]) -> bytes:
    """All flows of these addresses in the calling thread's namespace."""
    found = [
        Flow(
            family,
            flow[TUPLE_ORIGINAL],
            flow[TUPLE_REPLY],
            flow[_STATUS],
            flow[_TIMEOUT],
            flow.get(_PROTOCOL_STATE, b""),
        )
        for family, flow in conntrack.flows_of(addresses)
        if {TUPLE_ORIGINAL, TUPLE_REPLY, _STATUS, _TIMEOUT} <= flow.keys()
    ]
    return msgspec.msgpack.encode(Flows(flows=found[:FLOWS_MAX]))


def restore(addresses: Collection[str], data: bytes) -> int:
    """Make them in the calling thread's namespace, where they are not; how many were made.

    Flows without one of these addresses are refused: NetworkError, and none is made.
    """
    try:
        flows = msgspec.msgpack.decode(data, type=Flows)
        if flows.version != 1 or len(flows.flows) > FLOWS_MAX:
            raise NetworkError("these are no flows")
        messages = [(flow.family, _new(flow)) for flow in flows.flows]
        if any(not conntrack.touches(_both(flow), addresses) for flow in flows.flows):
            raise NetworkError("there are flows of other ports among these")
    except (msgspec.MsgspecError, KeyError, IndexError, struct.error) as error:
        raise NetworkError(f"these are no flows: {error}") from None
    return conntrack.create(messages)


def _both(flow: Flow) -> dict[int, bytes]:
    return {TUPLE_ORIGINAL: flow.original, TUPLE_REPLY: flow.reply}


def _new(flow: Flow) -> bytes:
    """What the kernel is told. It wants the answers' direction as if there were no translation, and what is
    translated beside it.
    """
    one, answer = attributes(flow.original), attributes(flow.reply)
    ip, port = _ends(one)
    answer_ip, answer_port = _ends(answer)
    status = int.from_bytes(flow.status, "big") & (_SEEN_REPLY | _ASSURED) | _CONFIRMED
    message = attribute(TUPLE_ORIGINAL, flow.original, nested=True)
    message += attribute(TUPLE_REPLY, _answers(one, answer), nested=True)
    message += attribute(_STATUS, status.to_bytes(4, "big")) + attribute(_TIMEOUT, flow.timeout)
    if flow.state:
        message += attribute(_PROTOCOL_STATE, _liberal(flow.state), nested=True)
    if (answer_ip[1], answer_port[1]) != (ip[0], port[0]):
        message += _translation(_NAT_SOURCE, answer_ip[1], answer_port[1])
    if (answer_ip[0], answer_port[0]) != (ip[1], port[1]):
        message += _translation(_NAT_TARGET, answer_ip[0], answer_port[0])
    return message


def _ends(direction: dict[int, bytes]) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    """((source, target) addresses, (source, target) ports) of one direction; no ports: empty."""
    ip, protocol = attributes(direction[_IP]), attributes(direction[_PROTOCOL])
    source, target = (ip[1], ip[2]) if 1 in ip else (ip[3], ip[4])
    return (source, target), (protocol.get(_SOURCE_PORT, b""), protocol.get(_TARGET_PORT, b""))


def _answers(one: dict[int, bytes], answer: dict[int, bytes]) -> bytes:
    """The answers' direction without translation. An echo's type is another there, its number the same."""
    ip, protocol = attributes(one[_IP]), attributes(one[_PROTOCOL])
    swapped = {key + 1 if key in (1, 3) else key - 1: value for key, value in ip.items()}
    back = attributes(answer[_PROTOCOL])
    ports = {_SOURCE_PORT: _TARGET_PORT, _TARGET_PORT: _SOURCE_PORT, _ICMP_ID: _ICMP_ID, _ICMP6_ID: _ICMP6_ID}
    back.update({ports[key]: value for key, value in protocol.items() if key in ports})
    return attribute(_IP, _join(swapped), nested=True) + attribute(_PROTOCOL, _join(back), nested=True)


def _join(values: dict[int, bytes]) -> bytes:
    return b"".join(attribute(key, value) for key, value in sorted(values.items()))


def _liberal(state: bytes) -> bytes:
    tcp = attributes(attributes(state).get(_TCP, b""))
    if not tcp:
        return state
    for key in _TCP_FLAGS:
        tcp[key] = bytes([tcp.get(key, b"\0")[0] | _BE_LIBERAL, 0xFF])
    return attribute(_TCP, _join(tcp), nested=True)


def _translation(kind: int, address: bytes, port: bytes) -> bytes:
    low, high = (1, 2) if len(address) == 4 else (4, 5)
    value = attribute(low, address) + attribute(high, address)
    if port:
        value += attribute(3, attribute(1, port) + attribute(2, port), nested=True)
    return attribute(kind, value, nested=True)
