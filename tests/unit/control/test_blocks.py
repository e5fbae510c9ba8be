from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gureum.control.blocks import SnapshotBlocks
from gureum.control.keys import KeyStore
from gureum.env import Env
from gureum.errors import ConfigError, TransportError
from gureum.resources import SnapshotState, VolumeKey, VolumeState
from gureum.transport.messages import BLOCK_BYTES, BlockUse


class FakeCalls:
    def __init__(self, answer: bytes = b"") -> None:
        self.sessions = {"host-2": None, "host-1": None}
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.answer = answer

    async def call(self, host: str, method: str, **values: Any) -> bytes:
        self.asked.append((host, method, values))
        return self.answer


def blocks(bench: Any, calls: FakeCalls) -> SnapshotBlocks:
    return SnapshotBlocks(bench.store, calls, KeyStore.unsafe())  # type: ignore[arg-type]


async def test_the_host_of_the_snapshot_is_asked(bench: Any, make: Any) -> None:
    calls = FakeCalls(msgspec.msgpack.encode([BlockUse(3, False, True)]))
    snapshot = make.snapshot(state=SnapshotState.completed, staging="vol-9")
    assert await blocks(bench, calls).used(snapshot, None, 2, 10) == [BlockUse(3, False, True)]
    [(host, method, values)] = calls.asked
    assert (host, method, values["volume"], values["size"]) == ("host-0", "list-blocks", "vol-9", 1 << 30)
    shared = make.snapshot(state=SnapshotState.completed, pool="san", host=None)
    calls.answer = bytes(BLOCK_BYTES)
    await blocks(bench, calls).read(shared, 2)
    host, method, values = calls.asked[-1]
    assert (host, method, values["offset"]) == ("host-1", "read-block", 2 * BLOCK_BYTES)
    for keeper, asked in (("host-2", "host-2"), ("host-3", "host-1")):
        await blocks(bench, calls).read(make.snapshot(pool="san", host=keeper), 0)
        assert calls.asked[-1][0] == asked


async def test_only_what_is_in_one_place_is_compared(bench: Any, make: Any) -> None:
    calls = FakeCalls(msgspec.msgpack.encode([]))
    one, other = (make.snapshot(f"snap-{host}", pool="san", host=host) for host in ("host-1", "host-2"))
    assert await blocks(bench, calls).used(one, other, 0, 10) == []
    assert [values["since"] for _, _, values in calls.asked] == [other.id]
    here, there = (make.snapshot(f"snap-{host}", host=host) for host in ("host-1", "host-2"))
    for since in (there, other):
        found = await blocks(bench, calls).used(here, since, 2047, 10)
        assert found == [BlockUse(2047, True, True)]
    assert len(calls.asked) == 1


async def test_a_key_goes_along_where_data_is_read(bench: Any, make: Any) -> None:
    calls = FakeCalls(msgspec.msgpack.encode([]))
    snapshot = make.snapshot(state=SnapshotState.completed, encrypted=True, key="key-1")
    with pytest.raises(ConfigError, match="no key"):
        await blocks(bench, calls).read(snapshot, 0)
    keys = KeyStore.unsafe()
    record = VolumeKey(id="key-1", account="1", wrapped=keys.new(Env(), "key-1"))
    await bench.put(record)
    await blocks(bench, calls).used(snapshot, None, 0, 1)
    calls.answer = bytes(BLOCK_BYTES)
    await blocks(bench, calls).read(snapshot, 0)
    listed, read = (values for _, _, values in calls.asked)
    assert listed["encrypted"]
    assert read["encrypted"]
    assert "key" not in listed
    assert read["key"] == keys.unwrap(record)
    other = SnapshotBlocks(bench.store, calls, KeyStore(b"x" * 32))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not wrapped by this cloud's master key"):
        await other.read(snapshot, 0)


async def test_answers_are_not_believed(bench: Any, make: Any) -> None:
    snapshot = make.snapshot(state=SnapshotState.completed)
    with pytest.raises(TransportError):
        await blocks(bench, FakeCalls(b"\x93")).used(snapshot, None, 0, 1)
    with pytest.raises(TransportError):
        await blocks(bench, FakeCalls(b"short")).read(snapshot, 0)
    nobody = FakeCalls()
    nobody.sessions = {}
    with pytest.raises(TransportError):
        await blocks(bench, nobody).read(make.snapshot(pool="san", host=None), 0)


async def test_blocks_are_written_to_the_volume_once_it_is_there(
    bench: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gureum.control.blocks.READY_SECONDS_MAX", 0.0)
    snapshot = make.snapshot(host=None, staging="vol-9", timeout_seconds=60.0)
    volume = make.volume("vol-9", staged=snapshot.id, state=VolumeState.available)
    await bench.put(volume)
    calls = FakeCalls()
    await blocks(bench, calls).write(snapshot, 1, b"data")
    expected = {"pool": "local", "volume": "vol-9", "offset": BLOCK_BYTES, "data": b"data"}
    assert calls.asked == [("host-0", "write-block", expected)]
    for state in (VolumeState.creating, VolumeState.deleting):
        made = make.volume(f"vol-{state}", staged=snapshot.id, state=state)
        await bench.put(made)
        with pytest.raises(TransportError):
            await blocks(bench, calls).write(make.snapshot(staging=made.id, timeout_seconds=60.0), 0, b"")
