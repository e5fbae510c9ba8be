from __future__ import annotations

from gureum.hypervisors.qemu.disks import OpenDisk, OpenLayer, disk_device, parse_name
from gureum.hypervisors.qemu.rbd import OpenRbd
from gureum.san.base import Layer, RbdDisk
from gureum.san.luks import passphrase

VOLUME = "vol-0123456789abcdef0"
KEY = bytes(range(64))
RBD = RbdDisk(pool="vm", image="a", conf="/c", user="gureum", keyring="/k")
FILE = OpenLayer(10, Layer(path="/a.raw", format="raw"), (20, 21), True, True)


def test_image_of_a_cluster() -> None:
    opened = OpenDisk(volume=VOLUME, number=10, remote=OpenRbd(10, RBD, 30, "AQA=="))
    image, raw = opened.nodes(40)
    assert (image["driver"], image["node-name"], image["conf"]) == (
        "rbd",
        f"{VOLUME}.10f",
        "/proc/self/fd/40",
    )
    assert (raw["driver"], raw["file"], raw["node-name"]) == ("raw", f"{VOLUME}.10f", f"{VOLUME}.10")
    assert opened.top == f"{VOLUME}.10"
    assert opened.secrets == {image["key-secret"]: {"format": "base64", "data": "AQA=="}}
    assert opened.files == []
    assert list(opened.numbers) == [10]


def test_encrypted_chain() -> None:
    base = OpenLayer(11, Layer(path="/b.raw", format="raw"), (22,), False, False)
    written = OpenLayer(10, Layer(path="/a.qcow2", format="qcow2"), (20, 21), True, True)
    opened = OpenDisk(volume=VOLUME, number=10, layers=(written, base), key=KEY)
    *_, top = opened.nodes()
    assert (top["driver"], top["file"], top["node-name"]) == ("luks", f"{VOLUME}.10", f"{VOLUME}.10c")
    assert opened.top == top["node-name"]
    assert opened.secrets == {top["key-secret"]: {"format": "raw", "data": passphrase(KEY)}}
    assert list(opened.numbers) == [10, 11]
    assert disk_device(opened, "virtio-blk-pci", {}, pauses=False)["drive"] == top["node-name"]


def test_node_names_fit() -> None:
    """QEMU allows 31 characters."""
    assert len(f"{VOLUME}.999999c") <= 31


def test_names() -> None:
    assert parse_name(f"{VOLUME}.10") == parse_name(f"{VOLUME}.10c") == (VOLUME, 10)
    assert parse_name(f"{VOLUME}.10f") is None
    assert parse_name("#block123") is None


def test_errors() -> None:
    opened = OpenDisk(volume=VOLUME, number=10, layers=(FILE,))
    alone, shared = (disk_device(opened, "virtio-blk-pci", {}, pauses) for pauses in (False, True))
    assert (alone["werror"], alone["rerror"]) == ("enospc", "report")
    assert (shared["werror"], shared["rerror"]) == ("stop", "stop")
