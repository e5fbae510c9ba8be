"""Messages of object classes, against what a cluster said."""

from __future__ import annotations

from gureum.san.ceph.rbdworker import encoding
from gureum.san.ceph.rbdworker.encoding import Locker

GET_INFO_REPLY = bytes.fromhex(
    "01015f00000001000000010112000000082310000000000000050000"
    "0063312f683101013800000000000000000000000101011c000000"
    "010000004c3c569c10000000020000007f0000010000000000000000"
    "0900000064657363207465787401"
    "00000000"
)
"""Of Ceph 16.2.15, with one locker."""


def test_lockers_are_read():
    assert encoding.lockers(GET_INFO_REPLY) == ([Locker(0x1023, "c1/h1", "desc text")], False)


def test_no_lockers():
    assert encoding.lockers(encoding.structure(bytes(4) + b"\1" + bytes(4))) == ([], False)


def test_what_a_newer_version_appends_is_skipped():
    """In the structure of the locker's name."""
    longer = GET_INFO_REPLY.replace(bytes.fromhex("01011200000008"), bytes.fromhex("02011700000008")).replace(
        b"c1/h1", b"c1/h1later"
    )
    assert encoding.lockers(longer).all == [Locker(0x1023, "c1/h1", "desc text")]


def test_addresses_in_the_old_form():
    start = GET_INFO_REPLY.index(bytes.fromhex("0101011c000000"))
    end = GET_INFO_REPLY.index(bytes.fromhex("09000000646573"))
    old = GET_INFO_REPLY[:start] + bytes(136) + GET_INFO_REPLY[end:]
    info = GET_INFO_REPLY.index(bytes.fromhex("010138000000"))
    grown = 0x38 + 136 - (end - start)
    old = old[: info + 2] + grown.to_bytes(4, "little") + old[info + 6 :]
    assert encoding.lockers(old).all == [Locker(0x1023, "c1/h1", "desc text")]


def test_a_shared_lock_has_several_lockers():
    assert encoding.lockers(encoding.structure(bytes(4) + b"\2" + bytes(4))).shared


def test_requests():
    assert encoding.lock_name("gureum") == b"\1\1\x0a\0\0\0" + b"\6\0\0\0gureum"
    locker = Locker(0x1023, "c1/h1", "")
    assert encoding.break_lock("g", locker) == (
        b"\1\1\x17\0\0\0" + b"\1\0\0\0g" + b"\x08\x23\x10\0\0\0\0\0\0" + b"\5\0\0\0c1/h1"
    )


def test_strings():
    assert encoding.read_string(b"xx" + encoding.string("größer") + b"more", 2) == ("größer", 14)


def test_until_when_a_lock_is_held():
    info = GET_INFO_REPLY.index(bytes.fromhex("010138000000")) + 6
    until = (1_800_000_000).to_bytes(4, "little") + (5).to_bytes(4, "little")
    [locker] = encoding.lockers(GET_INFO_REPLY[:info] + until + GET_INFO_REPLY[info + 8 :]).all
    assert locker.expires == (1_800_000_000, 5)
    assert locker.description == "desc text"


def test_a_parent_is_read():
    body = (7).to_bytes(8, "little") + encoding.string("") + encoding.string("1a2b") + encoding.number(12)
    assert encoding.parent(encoding.structure(body)) == encoding.Parent(7, "1a2b", 12)
    assert encoding.parent(encoding.structure(body + b"later")) == encoding.Parent(7, "1a2b", 12)
