from __future__ import annotations

import socket
import struct

import msgspec
import pytest

from gureum.errors import NetworkError
from gureum.network import conntrack, flows
from gureum.network.conntrack import TUPLE_ORIGINAL, TUPLE_REPLY, attribute, attributes

OWN, PUBLIC, OTHER = "10.0.0.5", "198.18.0.5", "203.0.113.9"


def direction(source: str, target: str, source_port: int, target_port: int, protocol: int = 6) -> bytes:
    ip = attribute(1, socket.inet_aton(source)) + attribute(2, socket.inet_aton(target))
    ports = attribute(2, struct.pack("!H", source_port)) + attribute(3, struct.pack("!H", target_port))
    rest = attribute(1, bytes([protocol])) + ports
    return attribute(1, ip, nested=True) + attribute(2, rest, nested=True)


def flow(original: bytes, reply: bytes) -> flows.Flow:
    tcp = attribute(1, b"\x03") + attribute(4, b"\x03\x00") + attribute(5, b"\x03\x00")
    state = attribute(1, tcp, nested=True)
    # 0x18e: seen reply, assured, confirmed, translated; the last two are not for us to say.
    return flows.Flow(
        socket.AF_INET, original, reply, struct.pack("!I", 0x18E), struct.pack("!I", 431999), state
    )


def made(monkeypatch: pytest.MonkeyPatch, *given: flows.Flow) -> list[dict[int, bytes]]:
    seen: list[dict[int, bytes]] = []

    def create(messages: list[tuple[int, bytes]]) -> int:
        seen.extend(attributes(message) for _, message in messages)
        return len(messages)

    monkeypatch.setattr(conntrack, "create", create)
    data = msgspec.msgpack.encode(flows.Flows(flows=list(given)))
    assert flows.restore((OWN,), data) == len(given)
    return seen


def test_a_flow_is_made_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    original, reply = direction(OWN, OTHER, 4000, 80), direction(OTHER, OWN, 80, 4000)
    (found,) = made(monkeypatch, flow(original, reply))
    assert (found[TUPLE_ORIGINAL], found[TUPLE_REPLY]) == (original, reply)
    assert found[3] == struct.pack("!I", 0xE)
    assert found[7] == struct.pack("!I", 431999)
    tcp = attributes(attributes(found[4])[1])
    assert (tcp[1], tcp[4], tcp[5]) == (b"\x03", b"\x0b\xff", b"\x0b\xff")
    assert not {6, 13} & found.keys()


@pytest.mark.parametrize(
    ("original", "reply", "translation", "address"),
    [
        (direction(OWN, OTHER, 4000, 80), direction(OTHER, PUBLIC, 80, 4000), 6, PUBLIC),
        (direction(OTHER, PUBLIC, 4000, 80), direction(OWN, OTHER, 80, 4000), 13, OWN),
    ],
)
def test_a_translation_is_told_beside_the_untranslated_answers(
    monkeypatch: pytest.MonkeyPatch, original: bytes, reply: bytes, translation: int, address: str
) -> None:
    (found,) = made(monkeypatch, flow(original, reply))
    one, answer = (
        attributes(attributes(found[TUPLE_ORIGINAL])[1]),
        attributes(attributes(found[TUPLE_REPLY])[1]),
    )
    assert (answer[1], answer[2]) == (one[2], one[1])
    assert {6, 13} & found.keys() == {translation}
    assert attributes(found[translation])[1] == socket.inet_aton(address)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        msgspec.msgpack.encode({"version": 2, "flows": []}),
        msgspec.msgpack.encode(flows.Flows(flows=[flow(b"", b"")])),
        msgspec.msgpack.encode(flows.Flows(flows=[flow(b"\x08\x00\x01\x80\xff\xff\xff\xff", b"x" * 7)])),
        msgspec.msgpack.encode(
            flows.Flows(flows=[flow(direction(OTHER, PUBLIC, 1, 2), direction(PUBLIC, OTHER, 2, 1))])
        ),
    ],
)
def test_what_are_no_flows_of_the_port_is_refused(data: bytes) -> None:
    with pytest.raises(NetworkError, match="flows"):
        flows.restore((OWN,), data)
