from __future__ import annotations

import random
import stat
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.keys import KEY_BYTES, KeyStore, forget_key, keys_of
from gureum.env import Env
from gureum.errors import ConfigError
from gureum.resources import SnapshotState, VolumeKey, VolumeState


def key(store: KeyStore, id: str = "key-1") -> VolumeKey:
    return VolumeKey(id=id, wrapped=store.new(Env(rng=random.Random(id)), id))


def test_the_master_key_is_made_once_for_nobody_else(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    record = key(KeyStore.open(Env(), directory))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    [file] = directory.iterdir()
    assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_size) == (0o600, 32)
    again = KeyStore.open(Env(), directory)
    assert len(again.unwrap(record)) == KEY_BYTES
    assert again.unwrap(record) not in record.wrapped
    assert again.sign(b"x") == KeyStore.open(Env(), directory).sign(b"x") != again.sign(b"y")


def test_what_another_master_key_wrapped_is_not_opened(tmp_path: Path) -> None:
    one, other = KeyStore.open(Env(), tmp_path / "one"), KeyStore.open(Env(), tmp_path / "other")
    record = key(one)
    with pytest.raises(ConfigError, match="master key"):
        other.unwrap(record)
    with pytest.raises(ConfigError, match="key-2"):
        one.unwrap(replace(record, id="key-2"))
    changed = bytes([record.wrapped[0] ^ 1]) + record.wrapped[1:]
    with pytest.raises(ConfigError):
        one.unwrap(replace(record, wrapped=changed))


def test_a_damaged_master_key_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/master").write_bytes(b"short")
    with pytest.raises(ConfigError, match="backup"):
        KeyStore.open(Env(), tmp_path / "keys")
    assert (tmp_path / "keys/master").read_bytes() == b"short"


async def test_keys_of_volumes(bench: Any, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    store, foreign = KeyStore(b"a" * 32), KeyStore(b"b" * 32)
    await bench.put(key(store), key(foreign, "key-2"))
    things = [make.volume(key="key-1"), make.volume("vol-2", key="key-2"), make.volume("vol-3")]
    async with bench.store.read() as reader:
        found = await keys_of(reader, store, things)
    assert set(found) == {"key-1"}
    assert "key-2" in caplog.text
    assert repr(store) == "KeyStore()"


async def test_a_key_goes_with_the_last_that_has_it(bench: Any, make: Any) -> None:
    await bench.put(
        key(KeyStore(b"a" * 32)),
        make.host(),
        make.volume(key="key-1", state=VolumeState.deleting),
        make.snapshot(key="key-1", state=SnapshotState.deleting),
    )
    bench.volume(present=False)
    assert await bench.step_volume() is None
    assert await bench.find(VolumeKey, "key-1") is not None
    bench.snapshot(present=False)
    assert await bench.step_snapshot() is None
    assert await bench.find(VolumeKey, "key-1") is None
    await bench.store.transact(lambda tx: forget_key(tx, make.volume(key="key-1")))
