"""What happens in a simulated cloud, in words, by virtual time.

Everything in the simulation that is worth a line is logged; a timeline listens. So it changes nothing: a run
that is listened to is the run that is not.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Iterator
from types import TracebackType

from gureum.resources import (
    Address,
    Event,
    Host,
    Image,
    Instance,
    InstanceMigration,
    NatGateway,
    NetworkInterface,
    Snapshot,
    Upgrade,
    Volume,
)
from gureum.resources.record import Record
from gureum.resources.volume import shared
from gureum.sim.loop import FREEZER

SIM = "gureum.sim"
KINDS = {
    "gureum.sim.calls": "call",
    "gureum.sim.machines": "machine",
    "gureum.sim.process": "process",
    "gureum.sim.faults": "fault",
    "gureum.sim.scenario": ">",
}
"""What loggers of the simulation tell of. Other loggers' lines are of the kind of their level."""
BECAUSE = "because"
"""A reason that is no longer so is not worth a word."""
EVENTS = "gureum.control.events"
"""Logs what the store has, too."""
ID = re.compile(r"\b[a-z]+-[0-9a-f]{17}\b")


class Timeline(logging.Handler):
    """Listens within ``with``. ``lines`` are what was heard, with names in the place of ids.

    An id that has no name in ``names`` gets one by the order in which they came, unless ``ids``.
    """

    def __init__(self, ids: bool = False) -> None:
        super().__init__(logging.INFO)
        self.ids = ids
        self.names: dict[str, str] = {}
        self.entries: list[tuple[float, str, str]] = []
        """Virtual time, kind and text, with ids."""
        self._counts: dict[str, itertools.count[int]] = {}
        self._level = logging.NOTSET

    def __enter__(self) -> Timeline:
        logging.getLogger("gureum").addHandler(self)
        sim = logging.getLogger(SIM)
        self._level = sim.level
        sim.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("gureum").removeHandler(self)
        logging.getLogger(SIM).setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        before: Record | None = getattr(record, "before", None)
        after: Record | None = getattr(record, "after", None)
        changed = after or before
        if changed is not None:
            self._learn(after)
            if isinstance(after, Event):
                said = f"{after.severity} {after.name}: {after.message}"
                self.entries.append((loop.time(), "event", said))
                return
            for text in changes(before, after):
                self.entries.append((loop.time(), changed.kind, text))
        elif record.name in KINDS:
            self.entries.append(
                (loop.time(), KINDS[record.name], record.getMessage().removeprefix("fault: "))
            )
        elif record.levelno >= logging.WARNING and record.name != EVENTS:
            said = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                said += f": {record.exc_info[1]!r}"
            self.entries.append((loop.time(), record.levelname.lower(), f"{_process()}{said}"))

    def _learn(self, record: Record | None) -> None:
        """Names for what belongs to something that has one."""
        if isinstance(record, Instance):
            for device in record.devices:
                self.names.setdefault(device.volume, f"{record.id}/{device.device.rpartition('/')[2]}")
            for number, interface in enumerate(record.interfaces):
                self.names.setdefault(interface, f"{record.id}/eth{number}")
        elif isinstance(record, Image):
            self.names.setdefault(record.id, record.name)

    def lines(self) -> Iterator[str]:
        """One that says the same as the one before is only counted."""
        for (kind, text), same in itertools.groupby(self.entries, lambda entry: entry[1:]):
            first, *others = [time for time, *_ in same]
            yield f"{first:8.1f}  {kind:<9} {self.named(text)}".rstrip()
            if others:
                times = f"{len(others)} times" if len(others) > 1 else "once"
                yield f"{others[-1]:8.1f}  {kind:<9} (the same, {times} more)"

    def named(self, text: str) -> str:
        """With names in the place of ids."""
        return text if self.ids else ID.sub(self._alias, text)

    def _alias(self, match: re.Match[str]) -> str:
        id = match[0]
        if id not in self.names:
            prefix = id.partition("-")[0]
            self.names[id] = f"{prefix}-{next(self._counts.setdefault(prefix, itertools.count(1)))}"
        return self.named(self.names[id])


def _process() -> str:
    """Of which process a line is: the one that runs now."""
    freezer = FREEZER.get()
    return f"{freezer.name}: " if freezer is not None and freezer.name else ""


def changes(before: Record | None, after: Record | None) -> Iterator[str]:
    """What a commit changed of a record, as far as people want to know."""
    if after is None:
        if before is not None and shown(before):
            yield f"{before.id}: is forgotten"
        return
    was, now = shown(before) if before is not None else {}, shown(after)
    changed = {field: value for field, value in now.items() if value != was.get(field, "")}
    news = [
        f"{field} {value or '-'}".strip() for field, value in changed.items() if value or field != BECAUSE
    ]
    if news:
        yield f"{after.id}: {', '.join(news)}"


def shown(record: Record) -> dict[str, str]:
    """What a timeline tells of: by the word before it, its value."""
    match record:
        case Instance():
            reason = record.state_reason
            return {
                "": str(record.state),
                "on": record.host or "",
                "generation": str(record.generation),
                BECAUSE: reason.message if reason else "",
                "impaired:": record.impaired,
                "waits to become": record.growth.type if record.growth else "",
                "becomes": f"{record.type} {record.resize.message}".strip() if record.resize else "",
            }
        case Volume():
            return _of_volume(record)
        case Snapshot():
            return {"": str(record.state), "message": record.message}
        case Host():
            draining = "draining" if record.draining else "takes instances"
            return {
                "": str(record.state),
                " ": draining,
                "boot": record.boot_id,
                "watched by": record.watcher,
                "power": str(record.park.state) if record.park is not None else "",
                "fenced by": record.fence.by if record.fence is not None else "",
            }
        case Address():
            return {"of": str(record.interface or ""), "in use as": record.association or ""}
        case NatGateway():
            return {"": str(record.state), "on": record.host or ""}
        case NetworkInterface() if record.changing:
            return {"": str(record.attachment_state)}
        case InstanceMigration():
            return {
                "of": record.instance,
                "from": record.source,
                "to": record.destination,
                "": str(record.state),
                "because": record.message,
            }
        case Upgrade():
            steps = {f"{each.host}:": str(each.step) for each in record.hosts}
            return {"": str(record.state), **steps, "because": record.message}
        case _:
            return {}


def _of_volume(volume: Volume) -> dict[str, str]:
    attachments = [f"{each.instance} {each.state}" for each in volume.attachments]
    modification, move = volume.modification, volume.move
    return {
        "": str(volume.state),
        "kept by" if shared(volume.pool) else "on": volume.host or "",
        "former": " ".join(volume.former),
        "lost": " ".join(volume.lost),
        "strays": " ".join(volume.strays),
        "attached:": "; ".join(attachments),
        "GiB": f"{volume.size_bytes / 2**30:g}",
        "modification": str(modification.state) if modification else "",
        "move": f"to {move.target} {move.state} {move.message}".strip() if move else "",
        "pool": volume.pool,
        "message": volume.message,
    }
