from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gureum.control.blocks import SnapshotBlocks
from gureum.errors import TransportError
from gureum.resources import SnapshotState, VolumeState
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
    return SnapshotBlocks(bench.store, calls)  # type: ignore[arg-type]


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
