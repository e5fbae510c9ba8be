"""What the store says that is in a pool."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from gureum.control.pools import expected
from gureum.hostspec import source_clone
from gureum.resources import Host, HostState, Snapshot, SnapshotState, Volume, VolumeState
from gureum.resources.volume import Attachment, AttachmentState
from gureum.store.sqlite import SqliteStore

NOW = datetime(2027, 1, 1, tzinfo=UTC)
VOLUME = Volume(
    id="vol-1",
    account="1",
    state=VolumeState.available,
    size_bytes=1 << 30,
    zone="z",
    pool="gureum",
    host="h1",
    created=NOW,
)
ATTACHED = Attachment(instance="i-1", device="/dev/sdf", state=AttachmentState.attached, attached=NOW)
SNAPSHOT = Snapshot(
    id="snap-1",
    account="1",
    state=SnapshotState.completed,
    volume="vol-1",
    size_bytes=1 << 30,
    pool="gureum",
    host="h1",
    started=NOW,
)


@pytest.fixture
async def store(tmp_path):
    found = SqliteStore.open(tmp_path / "store.db")
    yield found
    await found.close()


async def read(store: SqliteStore, *records, pool: str = "gureum", host: str = "h1"):
    async def put(tx):
        for record in records:
            await tx.put(record)

    await store.transact(put)
    async with store.read() as reader:
        return await expected(reader, pool, host)


async def test_who_may_have_a_volume_open(store):
    found = await read(
        store,
        VOLUME,
        replace(VOLUME, id="vol-2", state=VolumeState.in_use, attachments=(ATTACHED,), former=("h2",)),
        Host(id="h1", account="1", zone="z", state=HostState.up),
        Host(id="h2", account="1", zone="z", state=HostState.down),
    )
    assert found.volumes == {"vol-1": "", "vol-2": "h1"}
    assert found.keepers == {"vol-1": frozenset({"h1"}), "vol-2": frozenset({"h1", "h2"})}
    assert found.up == frozenset({"h1"})


async def test_the_clone_that_an_encrypted_volume_is_copied_from_is_somebodys_until_then(store):
    found = await read(
        store,
        replace(VOLUME, encrypted=True, encrypts=True),
        replace(VOLUME, id="vol-2", encrypted=True, encrypts=True, state=VolumeState.creating),
    )
    clone = source_clone("vol-2")
    assert found.volumes == {"vol-1": "", "vol-2": "", clone: ""}
    assert found.busy == {"vol-2", clone}
    assert found.made == {"vol-1"}


async def test_what_was_there_once(store):
    found = await read(
        store,
        VOLUME,
        replace(VOLUME, id="vol-2", state=VolumeState.creating),
        replace(VOLUME, id="vol-3", state=VolumeState.deleting),
        replace(VOLUME, id="vol-4", pool="local"),
        SNAPSHOT,
        replace(SNAPSHOT, id="snap-2", state=SnapshotState.pending),
    )
    assert found.volumes.keys() == {"vol-1", "vol-2", "vol-3", "vol-4"}
    assert found.made == {"vol-1", "snap-1"}
    assert found.busy == {"vol-2", "vol-3"}
    assert found.snapshots == {"snap-1": "vol-1", "snap-2": "vol-1"}


async def test_a_local_pool_has_what_is_on_its_host(store):
    found = await read(
        store,
        replace(VOLUME, pool="local"),
        replace(VOLUME, id="vol-2", pool="local", host="h2"),
        pool="local",
    )
    assert found.made == {"vol-1"}
