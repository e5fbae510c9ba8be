"""The XML of instances that differ only in ids, addresses and times, from a form that is serialised once.

A form is made by serialising stand-ins: the records of an instance with marks in the places of what differs.
So what an instance looks like is written down in ``describe`` alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter, itemgetter

from msgspec import Struct
from msgspec.structs import replace

from gureum.gateway.scalars import iso_millis
from gureum.gateway.xml_out import escape
from gureum.resources import Attachment, BlockDevice, Instance, NetworkInterface, Volume
from gureum.services.ec2.parts import Parts

FORMS_MAX = 512
TIMES_MAX = 1024
WORTH = 8
"""A form is made when so many instances of its kind have been asked for."""

Write = Callable[[Parts], str]

# Values of an instance, by number. After them come each device's volume and time, the tags' values, and last
# the addresses as they stand in DNS names: with dashes.
FIXED = 14
(
    ID, ADDRESS, PUBLIC, OWN, LAUNCHED, INDEX, REASON, TOKEN, INTERFACE, MAC, ATTACHMENT, ATTACHED, ABOUT,
    ELASTIC,
) = range(FIXED)  # fmt: skip
_ADDRESSES = (ADDRESS, PUBLIC, OWN)

_EARLY = datetime(1, 1, 1, tzinfo=UTC)
_HIGH = 2_000_000_000
_MARK = re.compile("\ue000([0-9]{3})([.-])\ue001|0001-01-01T00:00:00\\.([0-9]{3})Z|2000000([0-9]{3})")

_time = lru_cache(maxsize=TIMES_MAX)(iso_millis)


class Form:
    """Text with places for values, from a text with marks."""

    def __init__(self, marked: str, count: int) -> None:
        pieces: list[str] = []
        numbers: list[int] = []
        end = 0
        for found in _MARK.finditer(marked):
            number = int(found[1] or found[3] or found[4])
            if found[2] == "-":
                number = count - len(_ADDRESSES) + _ADDRESSES.index(number)
            numbers.append(number)
            pieces.append(marked[end : found.start()].replace("%", "%%"))
            end = found.end()
        pieces.append(marked[end:].replace("%", "%%"))
        self._pattern = "%s".join(pieces)
        self._chosen = itemgetter(*numbers)

    def fill(self, values: list[str]) -> str:
        joined = "".join(values)
        if escape(joined) is not joined:
            values = [escape(value) for value in values]
        filled: str = self._pattern % self._chosen(values)
        return filled


class Forms:
    """The forms of the kinds of instances that there are many of."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Parts, object, int, Form | None]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def text(self, parts: Parts, common: tuple[object, ...], write: Write) -> str:
        """What ``write`` makes of the parts; ``common`` is all else that it depends on, by identity."""
        key = _key(parts, common)
        if key is None:
            return write(parts)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= FORMS_MAX:
                self._known.clear()
            # Holding what is in the key by its identity keeps that from being given to another object.
            known = (parts, common, 0, None)
        keep, held, seen, form = known
        if form is not None:
            return form.fill(_values(parts))
        text = write(parts)
        if seen == WORTH:
            values = _values(parts)
            made = Form(write(_marked(parts)), len(values))
            # A text with a mark in it by chance is no form.
            form = made if made.fill(values) == text else None
        self._known[key] = (keep, held, seen + 1, form)
        return text


def _but(kind: type[Struct], *fields: str) -> Callable[[Struct], tuple[object, ...]]:
    """Takes a record's fields other than these. One that is new is among them, and nothing goes stale."""
    return attrgetter(*(field for field in kind.__struct_fields__ if field not in fields))


# Left out is what has a mark, and what is not shown: that changes often or is different in each.
_of_instance = _but(
    Instance,
    *("id", "tags", "version", "private_ip", "launched", "launch_index", "transition_reason", "client_token"),
    *("interfaces", "devices", "reservation", "host", "generation", "generations", "reboots", "purge_at"),
    *("public_key", "user_data", "recovers", "leaving", "restart_at", "crashes", "cpu"),
)
_of_interface = _but(
    NetworkInterface,
    *("id", "tags", "version", "private_ip", "public_ip", "address", "mac", "attachment", "attached"),
    *("description", "instance", "host"),
)
_of_device = _but(BlockDevice, "volume")
_of_attachment = _but(Attachment, "attached", "instance")


def _key(parts: Parts, common: tuple[object, ...]) -> Hashable:
    """All that the item is made of, but for the values. None: an instance that has no form."""
    instance, interfaces, volumes, groups, vpc = parts
    if len(interfaces) != 1 or len(volumes) != len(instance.devices):
        return None
    interface = interfaces[0]
    if interface.secondary or interface.ipv6:  # addresses of its own, of which there are no marks
        return None
    devices = []
    for device, volume in zip(instance.devices, volumes, strict=True):
        attachment = volume.attached_to(instance.id)
        if attachment is None:
            return None
        devices.append((_of_device(device), _of_attachment(attachment)))
    return (
        tuple(map(id, common)),
        tuple(map(id, groups)),
        id(vpc),
        _of_instance(instance),
        tuple(instance.tags),
        not instance.private_ip,
        tuple(devices),
        _of_interface(interface),
        not interface.private_ip,
        not interface.public_ip,
        not interface.address,
        interface.attached is None,
    )


def _values(parts: Parts) -> list[str]:
    instance, (interface,), volumes, _, _ = parts
    values = [
        instance.id,
        instance.private_ip,
        interface.public_ip,
        interface.private_ip,
        _time(instance.launched),
        str(instance.launch_index),
        instance.transition_reason,
        instance.client_token,
        interface.id,
        interface.mac,
        interface.attachment,
        "" if interface.attached is None else _time(interface.attached),
        interface.description,
        interface.address,
    ]
    for volume in volumes:
        attachment = volume.attached_to(instance.id)
        values += (volume.id, "" if attachment is None else _time(attachment.attached))
    values += instance.tags.values()
    values += [values[number].replace(".", "-") for number in _ADDRESSES]
    return values


def _marked(parts: Parts) -> Parts:
    """The parts with marks for values."""
    instance, (interface,), volumes, groups, vpc = parts
    after = FIXED + 2 * len(volumes)
    stands = replace(
        instance,
        id=_mark(ID),
        private_ip=instance.private_ip and _mark(ADDRESS),
        launched=_time_mark(LAUNCHED),
        launch_index=_HIGH + INDEX,
        transition_reason=_mark(REASON),
        client_token=_mark(TOKEN),
        interfaces=(_mark(INTERFACE),),
        devices=tuple(_marked_device(device, n) for n, device in enumerate(instance.devices)),
        tags={key: _mark(after + n) for n, key in enumerate(instance.tags)},
    )
    card = replace(
        interface,
        id=_mark(INTERFACE),
        mac=_mark(MAC),
        attachment=_mark(ATTACHMENT),
        attached=interface.attached and _time_mark(ATTACHED),
        public_ip=interface.public_ip and _mark(PUBLIC),
        private_ip=interface.private_ip and _mark(OWN),
        description=_mark(ABOUT),
        address=interface.address and _mark(ELASTIC),
        instance=_mark(ID),
    )
    disks = tuple(_marked_volume(volume, instance.id, n) for n, volume in enumerate(volumes))
    return Parts(stands, (card,), disks, groups, vpc)


def _marked_device(device: BlockDevice, number: int) -> BlockDevice:
    return replace(device, volume=_mark(FIXED + 2 * number))


def _marked_volume(volume: Volume, instance: str, number: int) -> Volume:
    attachment = volume.attached_to(instance)
    assert attachment is not None
    attachment = replace(attachment, instance=_mark(ID), attached=_time_mark(FIXED + 2 * number + 1))
    return replace(volume, id=_mark(FIXED + 2 * number), attachments=(attachment,))


def _mark(number: int) -> str:
    """Stands for a value; made into a DNS name it has a dash for the dot, and stands for an address with
    dashes.
    """
    return f"\ue000{number:03}.\ue001"


def _time_mark(number: int) -> datetime:
    return _EARLY + timedelta(milliseconds=number)
