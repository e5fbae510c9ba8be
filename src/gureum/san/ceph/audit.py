"""What the cloud says that is in the pool, held against what is there.

    listing = await look(client)                    first the pool,
    findings = compare(listing, expected, cloud)    then what the store said after that
    for finding in findings: await repair(client, finding)

In this order: what is made has a record first, so that an image without one is nobody's. A record without an
image, on the other hand, may be a moment old: ``expected`` has those only that once were there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from enum import StrEnum

import msgspec

from gureum.san.ceph.client import Client, FoundImage

AT_ONCE = 8


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """``volumes`` and ``snapshots``: all that the cloud knows, by id; the host that may have the volume open
    ("" for none), and the volume that the snapshot is of. ``made``: ids of those that were in the pool once.
    ``images``: those that may be there.
    """

    volumes: Mapping[str, str]
    snapshots: Mapping[str, str]
    images: frozenset[str]
    made: frozenset[str]


class Listing(msgspec.Struct, frozen=True):
    """``other``: lines about what is neither volume nor image: unfinished, foreign, in the trash."""

    images: tuple[FoundImage, ...]
    other: tuple[str, ...]


class Action(StrEnum):
    """What ``repair`` does; ``none`` where a person has to decide."""

    none = "none"
    delete_volume = "delete the volume"
    delete_snapshot = "delete the snapshot"
    remove_image = "remove the image"
    bury = "remove what is left of it"
    release = "take the lock away"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """``line`` explains. ``volume``: of a snapshot; ``holder``: whose lock, CLOUD/HOST."""

    line: str
    action: Action = Action.none
    id: str = ""
    volume: str = ""
    holder: str = ""


async def look(client: Client) -> Listing:
    """All images, with their snapshots, who holds them, and who has them open. Takes ~10 ms an image."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def describe(name: str) -> FoundImage | None:
        async with slots:
            return await client.describe(name)

    found = await asyncio.gather(*map(describe, await client.names()))
    other = await client.survey([], repair=False)
    return Listing(tuple(image for image in found if image is not None), tuple(other))


def compare(listing: Listing, expected: Expected, cloud: str) -> list[Finding]:
    findings = [Finding(line=line) for line in listing.other]
    ours = {}
    for image in sorted(listing.images, key=lambda image: image.name):
        if image.cloud and image.cloud != cloud:
            findings.append(Finding(line=f"{image.name} is of the cloud {image.cloud}; kept"))
        elif not image.cloud:
            findings.append(Finding(line=f"{image.name} was not made by a cloud; kept"))
        else:
            ours[image.name] = image
    for image in ours.values():
        if image.name.startswith("ami-"):
            if image.name not in expected.images:
                line = f"{image.name} is in the pool, but no image of the cloud"
                findings.append(Finding(line=line, action=Action.remove_image, id=image.name))
        else:
            findings += _volume(image, expected, cloud)
    return findings + list(_missing(ours, expected))


def _volume(image: FoundImage, expected: Expected, cloud: str) -> Iterator[Finding]:
    id = image.name
    if image.deleted and not image.snapshots:
        line = f"{id} is deleted, and its last snapshot, too"
        yield Finding(line=line, action=Action.bury, id=id)
    elif not image.deleted and id not in expected.volumes:
        if image.holder or image.watchers:
            yield Finding(line=f"{id} is in the pool, but no volume of the cloud; {_users(image)}")
        else:
            line = f"{id} is in the pool, but no volume of the cloud"
            yield Finding(line=line, action=Action.delete_volume, id=id)
    for snapshot in image.snapshots:
        if expected.snapshots.get(snapshot) != id:
            line = f"{snapshot} of {id} is in the pool, but no snapshot of the cloud"
            yield Finding(line=line, action=Action.delete_snapshot, id=snapshot, volume=id)
    yield from _lock(image, expected, cloud)


def _lock(image: FoundImage, expected: Expected, cloud: str) -> Iterator[Finding]:
    host = expected.volumes.get(image.name, "")
    if not image.holder:
        if image.watchers and not host:
            yield Finding(line=f"{image.name} is to be open nowhere, but {_users(image)}")
    elif image.holder != f"{cloud}/{host}":
        wanted = f"host {host}" if host else "no host"
        line = f"{image.name} is to be held by {wanted}, but {_users(image)}"
        if image.watchers:
            yield Finding(line=line)
        else:
            yield Finding(line=line, action=Action.release, id=image.name, holder=image.holder)


def _missing(ours: Mapping[str, FoundImage], expected: Expected) -> Iterator[Finding]:
    for id in sorted(expected.volumes.keys() & expected.made):
        if id not in ours or ours[id].deleted:
            yield Finding(line=f"{id} is a volume of the cloud, but not in the pool: its data is lost")
    for id, volume in sorted(expected.snapshots.items()):
        if id in expected.made and (volume not in ours or id not in ours[volume].snapshots):
            yield Finding(line=f"{id} is a snapshot of the cloud, but not in the pool: its data is lost")


def _users(image: FoundImage) -> str:
    """Who has it, for people."""
    held = f"it is held by {image.holder} ({image.held_since})" if image.holder else ""
    open_ = f"it is open at {', '.join(image.watchers)}" if image.watchers else ""
    return ", and ".join(filter(None, (held, open_)))


async def repair(client: Client, finding: Finding) -> bool:
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
            await client.release_volume(finding.id, finding.holder)
    return True
