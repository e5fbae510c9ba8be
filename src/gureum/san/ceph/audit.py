"""What the cloud says that is in the pool, held against what is there.

    listing = await look(client)                    first the pool,
    findings = compare(listing, expected, cloud)    then what the store said after that
    for finding in findings: await repair(client, finding)

In this order: what is made has a record first, so that an image without one is nobody's. A record without an
image, on the other hand, may be a moment old: ``expected`` has those only that once were there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from gureum.san.ceph.found import FoundImage

if TYPE_CHECKING:
    from gureum.san.ceph.client import Client

AT_ONCE = 8
IN_TRASH, KEPT = "waits in the trash", "; kept"
"""How lines of a survey end that are about what is in order."""
HALF_MADE = re.compile(
    r"^(\S+) is unfinished$|is still called (\S+), too$|"
    r"^unfinished file (\S+)$|^nothing needs the layer (\S+)$"
)


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """``volumes`` and ``snapshots``: all that the cloud knows, by id; the host that may have the volume open
    ("" for none), and the volume that the snapshot is of. ``made``: ids of those that were in the pool once.
    ``images``: those that may be there. ``keepers``: by volume, the hosts that may still have its lock.
    ``busy``: volumes with work under way, which may be open anywhere.
    """

    volumes: Mapping[str, str]
    snapshots: Mapping[str, str]
    images: frozenset[str]
    made: frozenset[str]
    keepers: Mapping[str, frozenset[str]] = {}
    busy: frozenset[str] = frozenset()
    up: frozenset[str] = frozenset()
    """Hosts that answer: they give locks back themselves."""

    def between(self, after: str, until: str) -> Expected:
        """Only what concerns images with names above ``after``, up to ``until`` ("": all)."""

        def here(name: str) -> bool:
            return after < name and (not until or name <= until)

        volumes = {id: host for id, host in self.volumes.items() if here(id)}
        snapshots = {id: volume for id, volume in self.snapshots.items() if here(volume)}
        return replace(self, volumes=volumes, snapshots=snapshots)


class Listing(msgspec.Struct, frozen=True):
    """``other``: lines about what is neither volume nor image: unfinished, foreign, in the trash.

    ``until``: the name of the last image, if there are more, "" if not. ``snapshots``, with their volumes: of
    a pool in which they are things of their own.
    """

    images: tuple[FoundImage, ...]
    other: tuple[str, ...] = ()
    until: str = ""
    snapshots: tuple[tuple[str, str], ...] = ()


class Action(StrEnum):
    """What ``repair`` does; ``none`` where a person has to decide."""

    none = "none"
    delete_volume = "delete the volume"
    delete_snapshot = "delete the snapshot"
    remove_image = "remove the image"
    bury = "remove what is left of it"
    release = "take the lock away"
    tidy = "remove what was not completed"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """``line`` explains. ``volume``: of a snapshot; ``holder``: whose lock, CLOUD/HOST. ``note``: it is worth
    knowing, and in order.
    """

    line: str
    action: Action = Action.none
    id: str = ""
    volume: str = ""
    holder: str = ""
    note: bool = False

    @property
    def key(self) -> str:
        """The same for the same finding of another look."""
        return "/".join(filter(None, (self.action.name, self.id, self.volume, self.holder)))


async def look(client: Client, after: str = "", count: int = 0, making: Iterable[str] = ()) -> Listing:
    """Images, with their snapshots, who holds them, and who has them open. Takes ~10 ms an image.

    At most ``count`` (0: all) with names above ``after``, and with the first of them what is no image.
    ``making``: tokens of what this host is making now.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def describe(name: str) -> FoundImage | None:
        async with slots:
            return await client.describe(name)

    names = sorted(name for name in await client.names() if name > after)
    page = names[:count] if count else names
    found = await asyncio.gather(*map(describe, page))
    other = await client.survey(sorted(making), repair=False) if not after else []
    until = page[-1] if len(page) < len(names) else ""
    return Listing(tuple(image for image in found if image is not None), tuple(other), until)


def compare(listing: Listing, expected: Expected, cloud: str) -> list[Finding]:
    findings = [_other(line) for line in listing.other]
    ours = {}
    for image in sorted(listing.images, key=lambda image: image.name):
        if image.cloud and image.cloud != cloud:
            findings.append(Finding(line=f"{image.name} is of the cloud {image.cloud}; kept", note=True))
        elif not image.cloud:
            findings.append(Finding(line=f"{image.name} was not made by a cloud; kept", note=True))
        else:
            ours[image.name] = image
    for image in ours.values():
        if image.name.startswith("ami-"):
            if image.name not in expected.images:
                line = f"{image.name} is in the pool, but no image of the cloud"
                findings.append(Finding(line=line, action=Action.remove_image, id=image.name))
        else:
            findings += _volume(image, expected, cloud)
    for snapshot, volume in listing.snapshots:
        if expected.snapshots.get(snapshot) != volume:
            findings.append(_stray(snapshot, volume))
    return findings + list(_missing(ours, expected, dict(listing.snapshots)))


def _other(line: str) -> Finding:
    if line.endswith((IN_TRASH, KEPT)):
        return Finding(line=line, note=True)
    found = HALF_MADE.search(line)
    if found is None:
        return Finding(line=line)
    return Finding(line=line, action=Action.tidy, id=next(filter(None, found.groups())))


def _stray(snapshot: str, volume: str) -> Finding:
    line = f"{snapshot} of {volume} is in the pool, but no snapshot of the cloud"
    return Finding(line=line, action=Action.delete_snapshot, id=snapshot, volume=volume)


def _volume(image: FoundImage, expected: Expected, cloud: str) -> Iterator[Finding]:
    id = image.name
    if image.deleted and not image.snapshots:
        line = f"{id} is deleted, and its last snapshot, too"
        yield Finding(line=line, action=Action.bury, id=id)
    elif not image.deleted and id not in expected.volumes:
        line = f"{id} is in the pool, but no volume of the cloud"
        if image.watchers or image.holder.removeprefix(f"{cloud}/") in expected.up:
            yield Finding(line=f"{line}; {_users(image)}", id=id)
        elif image.holder:
            line = f"{line}; {_users(image)}: without that, it can be deleted"
            yield Finding(line=line, action=Action.release, id=id, holder=image.holder)
        else:
            yield Finding(line=line, action=Action.delete_volume, id=id)
    for snapshot in image.snapshots:
        if expected.snapshots.get(snapshot) != id:
            yield _stray(snapshot, id)
    yield from _lock(image, expected, cloud)


def _lock(image: FoundImage, expected: Expected, cloud: str) -> Iterator[Finding]:
    id, host = image.name, expected.volumes.get(image.name, "")
    if id in expected.busy or (id not in expected.volumes and not image.deleted):
        return
    may_hold = {f"{cloud}/{each}" for each in (host, *expected.keepers.get(id, ())) if each}
    for sharer in image.sharers:
        if sharer not in may_hold and sharer.removeprefix(f"{cloud}/") not in expected.up:
            line = f"{id} is shared by {sharer}, which has no machine with it"
            yield Finding(line=line, action=Action.release, id=id, holder=sharer)
    if image.holder and image.holder not in may_hold:
        wanted = f"host {host}" if host else "no host"
        line = f"{id} is to be held by {wanted}, but {_users(image)}"
        holding = image.holder.removeprefix(f"{cloud}/")
        if holding in expected.up:
            yield Finding(
                line=f"{line}; host {holding} answers, and gives it back when its agent is started anew"
            )
        elif image.watchers:
            yield Finding(line=line)
        else:
            yield Finding(line=line, action=Action.release, id=id, holder=image.holder)
    elif image.watchers and not host:
        yield Finding(line=f"{id} is to be open nowhere, but {_users(image)}")


def _missing(
    ours: Mapping[str, FoundImage], expected: Expected, apart: Mapping[str, str]
) -> Iterator[Finding]:
    for id in sorted(expected.volumes.keys() & expected.made):
        if id not in ours or ours[id].deleted:
            yield Finding(line=f"{id} is a volume of the cloud, but not in the pool: its data is lost", id=id)
    for id, volume in sorted(expected.snapshots.items()):
        inside = volume in ours and id in ours[volume].snapshots
        if id in expected.made and not inside and apart.get(id) != volume:
            yield Finding(
                line=f"{id} is a snapshot of the cloud, but not in the pool: its data is lost", id=id
            )


def _users(image: FoundImage) -> str:
    """Who has it, for people."""
    held = f"it is held by {image.holder} ({image.held_since})" if image.holder else ""
    open_ = f"it is open at {', '.join(image.watchers)}" if image.watchers else ""
    return ", and ".join(filter(None, (held, open_)))


async def repair(client: Client, finding: Finding, making: Iterable[str] = ()) -> bool:
    """Whether there was something to do. Raises PoolError; all of it may be done again."""
    match finding.action:
        case Action.none:
            return False
        case Action.delete_volume:
            await client.delete_volume(finding.id)
        case Action.delete_snapshot:
            await client.delete_snapshot(finding.id, finding.volume)
        case Action.remove_image:
            await client.remove_image(finding.id)
        case Action.bury:
            await client.bury(finding.id)
        case Action.release:
            # Should its host come back, its machines can write no more.
            await client.evict_volume(finding.id, finding.holder)
        case Action.tidy:
            await client.survey(sorted(making), repair=True)
    return True
