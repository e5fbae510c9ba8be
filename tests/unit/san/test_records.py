from __future__ import annotations

import pytest

from gureum.errors import PoolError
from gureum.san.records import (
    ImageRecord,
    SnapshotRecord,
    SwitchIntent,
    VolumeRecord,
    decode,
    encode,
    is_layer_name,
    layer_format,
    layers_of,
    require_id,
)

LAYER, OTHER, BASE = "vol-1.00000000.qcow2", "vol-1.00000001.qcow2", "ami-1.00000000.raw"
INTENT = SwitchIntent(snapshot="snap-1", overlay=OTHER, size_bytes=1 << 30)
VOLUME = VolumeRecord(id="vol-1", size_bytes=1 << 30, chain=(LAYER, BASE), source="ami-1", pending=INTENT)


@pytest.mark.parametrize(
    "record",
    [
        VOLUME,
        SnapshotRecord(id="snap-1", size_bytes=1 << 30, chain=(LAYER, BASE), volume="vol-1"),
        ImageRecord(id="ami-1", size_bytes=512, chain=(BASE,)),
    ],
)
def test_record_is_read_back(record):
    assert decode(record.id, encode(record)) == record


@pytest.mark.parametrize(
    ("id", "data"),
    [
        ("vol-1", b""),
        ("vol-1", b"null"),
        ("vol-1", b'{"id": "vol-1"}'),
        ("vol-1", encode(VolumeRecord(id="vol-2", size_bytes=1, chain=(LAYER,)))),
        ("vol-1", encode(VolumeRecord(id="vol-1", size_bytes=1, chain=()))),
        ("vol-1", encode(VolumeRecord(id="vol-1", size_bytes=1, chain=("../../etc/shadow",)))),
        ("snap-1", b"\xff\xfe"),
    ],
)
def test_damaged_record(id, data):
    with pytest.raises(PoolError, match=f"the record of {id} is damaged"):
        decode(id, data)


def test_open_intent_keeps_its_layer():
    assert layers_of(VOLUME) == (OTHER, LAYER, BASE)


@pytest.mark.parametrize("id", ["vol-0123456789abcdef0", "vol-1"])
def test_good_id(id):
    require_id(id, "vol")


@pytest.mark.parametrize(
    "id", ["", "vol-", "vol", "vol-A", "vol-1/..", "vol-1.", "vol-1\n", "snap-1", "vol-" + "1" * 41]
)
def test_bad_id(id):
    with pytest.raises(PoolError, match="no id of the form vol-"):
        require_id(id, "vol")


def test_layer_names():
    assert is_layer_name(LAYER)
    assert is_layer_name(BASE)
    assert layer_format(LAYER) == "qcow2"
    assert layer_format(BASE) == "raw"
    assert not is_layer_name("vol-1.qcow2")
    assert not is_layer_name("vol-1.00000000.vmdk")
    assert not is_layer_name("../vol-1.00000000.raw")
