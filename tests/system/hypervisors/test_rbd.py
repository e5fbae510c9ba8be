"""Disks of a storage cluster in a machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.disks import SECRETS
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.hypervisors.qemu.live_nodes import items
from gureum.hypervisors.qemu.rbd import find_key
from gureum.san.base import FileDisk, Layer, RbdDisk
from gureum.san.luks import LUKS_HEADER_BYTES, luks_header, passphrase

from .guest import ID, MIB, GuestFiles, Shell, bare, booted, disk, linux, raw_disk, shell, until, volume
from .images import Images

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.ceph]

KEY = bytes(range(64))


async def written(guest: Shell, device: str) -> str:
    """Write 4 MiB of noise to a device; the digest."""
    await guest.run(f"until [ -e /dev/{device} ]; do sleep 0.1; done")
    await guest.run("dd if=/dev/urandom of=/data bs=1M count=4 status=none")
    await guest.run(f"dd if=/data of=/dev/{device} bs=1M conv=fsync status=none")
    return (await guest.run("sha256sum </data")).split()[0]


async def test_boots_and_plugs(images: Images, hypervisor: QemuHypervisor, guest_files: GuestFiles) -> None:
    root, data = images.create(64 * MIB), images.create(64 * MIB)
    await hypervisor.start(linux(guest_files, ID, disk(0, root)))
    await booted(hypervisor, ID)
    assert await hypervisor.active_layer(ID, volume(0)) == f"rbd:{root.pool}/{root.image}"
    for _ in range(2):
        await hypervisor.attach_disk(ID, disk(1, data))
        async with shell(hypervisor, ID) as guest:
            digests = [await written(guest, device) for device in ("vda", "vdb")]
            assert await guest.run("cat /sys/block/vdb/serial") == volume(1).replace("-", "")
        for image, digest in zip((root, data), digests, strict=True):
            assert hashlib.sha256(images.content(image, 4 * MIB)).hexdigest() == digest
        await hypervisor.close()
        await hypervisor.recover()
        assert hypervisor.machines()[ID].disks == (volume(0), volume(1))
        assert await hypervisor.active_layer(ID, volume(1)) == f"rbd:{data.pool}/{data.image}"
        await hypervisor.detach_disk(ID, volume(1))
        await until(lambda: hypervisor.machines()[ID].disks == (volume(0),))
        assert {name for name, _ in await hypervisor._machines[ID].disks().nodes.names()} == {volume(0)}
        assert len(await hypervisor._machines[ID].disks().nodes.fdsets()) == 1  # the console's


async def test_keys_are_nowhere(images: Images, hypervisor: QemuHypervisor, run_dir: Path) -> None:
    """Neither the cluster's nor a volume's: not on the command line, in the record, or in QEMU's objects."""
    plain, encrypted = images.create(8 * MIB), images.create(8 * MIB, KEY)
    keyring = Path(plain.keyring).read_text()
    keys = (find_key(keyring, plain.user, plain.keyring), passphrase(KEY))
    await hypervisor.start(bare(ID, disk(0, plain)))
    await hypervisor.attach_disk(ID, msgspec.structs.replace(disk(1, encrypted), key=KEY))
    identity = hypervisor._machines[ID].identity
    assert identity is not None
    process = Path(f"/proc/{identity.pid}")
    kept = [path.read_bytes() for path in (run_dir / "machines" / ID).iterdir() if path.is_file()]
    kept += [(process / "cmdline").read_bytes(), (process / "environ").read_bytes()]
    for key in keys:
        assert not [text for text in kept if key.encode() in text]
    monitor = hypervisor._machines[ID].monitor()
    objects = items(await monitor.execute("qom-list", {"path": "/objects"}))
    assert not [each for each in objects if str(each["name"]).endswith(SECRETS)]


async def test_resized_and_discarded(
    images: Images, hypervisor: QemuHypervisor, guest_files: GuestFiles
) -> None:
    root = images.create(64 * MIB)
    await hypervisor.start(linux(guest_files, ID, disk(0, root)))
    await booted(hypervisor, ID)

    def used() -> int:
        return int(json.loads(images.rbd("du", root.image, "--format", "json"))["images"][0]["used_size"])

    async with shell(hypervisor, ID) as guest:
        await guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=32 conv=fsync status=none")
        assert used() == 32 * MIB
        await guest.run("blkdiscard /dev/vda")
        assert used() == 0
        images.rbd("resize", root.image, "--size", f"{96 * MIB}B", "--no-progress")
        await hypervisor.resize_disk(ID, volume(0), 96 * MIB)
        size = f"[ $(cat /sys/block/vda/size) = {96 * MIB // 512} ]"
        await guest.run(f"until {size}; do sleep 0.1; done")
        await hypervisor.resize_disk(ID, volume(0), 128 * MIB)
        size = f"[ $(cat /sys/block/vda/size) = {128 * MIB // 512} ]"
        await guest.run(f"until {size}; do sleep 0.1; done")


async def test_taken_by_force(images: Images, hypervisor: QemuHypervisor, guest_files: GuestFiles) -> None:
    """What the guest does with the disk after that fails, and does not pause it."""
    root, data = images.create(16 * MIB), images.create(16 * MIB)
    await hypervisor.start(linux(guest_files, ID, disk(0, root), disk(1, data)))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as guest:
        await guest.run("(while true; do dd if=/dev/zero of=/dev/vdb bs=64k conv=fsync; done) 2>/dev/null &")
        await hypervisor.detach_disk(ID, volume(1), force=True)
        assert hypervisor.machines()[ID].disks == (volume(0),)
        await guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=1 conv=fsync status=none")
    await hypervisor.attach_disk(ID, disk(1, data))
    assert hypervisor.machines()[ID].disks == (volume(0), volume(1))


async def test_machine_without_a_way_to_the_cluster(
    images: Images, hypervisor: QemuHypervisor, tmp_path: Path
) -> None:
    await hypervisor.start(bare(ID, disk(0, raw_disk(tmp_path / "root.raw", MIB))))
    data = images.create(16 * MIB)
    with pytest.raises(HypervisorError, match="stopped and started"):
        await hypervisor.attach_disk(ID, disk(1, data))
    assert hypervisor.machines()[ID].disks == (volume(0),)


@pytest.fixture(params=["file", "rbd"])
def encrypted(request: pytest.FixtureRequest, tmp_path: Path) -> FileDisk | RbdDisk:
    """A volume of 16 MiB in either kind of pool."""
    if request.param == "rbd":
        images: Images = request.getfixturevalue("images")
        return images.create(16 * MIB, KEY)
    path = tmp_path / "encrypted.raw"
    with open(path, "wb") as file:
        file.write(luks_header(KEY))
        file.truncate(LUKS_HEADER_BYTES + 16 * MIB)
    return FileDisk(layers=(Layer(path=str(path), format="raw"),))


async def test_encrypted(
    encrypted: FileDisk | RbdDisk, run_dir: Path, guest_files: GuestFiles, tmp_path: Path
) -> None:
    hypervisor = QemuHypervisor(Env(), run_dir, shared_disks=True)
    await hypervisor.recover()
    try:
        await _encrypted(hypervisor, guest_files, encrypted, tmp_path)
    finally:
        await hypervisor.remove(ID)
        await hypervisor.close()


async def _encrypted(
    hypervisor: QemuHypervisor, files: GuestFiles, source: FileDisk | RbdDisk, tmp_path: Path
) -> None:
    """Data is the guest's only with the key; the disk is as large as it should be, and grows."""
    root = disk(0, raw_disk(tmp_path / "root.raw", MIB))
    await hypervisor.start(linux(files, ID, root))
    await booted(hypervisor, ID)
    data = disk(1, source)
    with pytest.raises(HypervisorError, match="Invalid password"):
        await hypervisor.attach_disk(ID, msgspec.structs.replace(data, key=bytes(64)))
    data = msgspec.structs.replace(data, key=KEY)
    await hypervisor.attach_disk(ID, data)
    async with shell(hypervisor, ID) as guest:
        digest = await written(guest, "vdb")
        assert int(await guest.run("cat /sys/block/vdb/size")) * 512 == 16 * MIB
        await hypervisor.close()
        await hypervisor.recover()
        await hypervisor.resize_disk(ID, volume(1), 24 * MIB)
        size = f"[ $(cat /sys/block/vdb/size) = {24 * MIB // 512} ]"
        await guest.run(f"until {size}; do sleep 0.1; done")
    await hypervisor.power_off(ID)
    await hypervisor.start(linux(files, ID, root, data, generation=2))
    await booted(hypervisor, ID, times=2)
    async with shell(hypervisor, ID) as guest:
        seen = await guest.run("dd if=/dev/vdb bs=1M count=4 status=none | sha256sum")
        assert seen.split()[0] == digest
