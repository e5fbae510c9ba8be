"""How built images become AMIs."""

from typing import Any

from gureum.control.images import image_id, register
from gureum.images.manifest import ImageManifest
from gureum.resources import Image, Snapshot, SnapshotState
from gureum.services.operation import Cloud

CLOUD = Cloud(
    name="c", account="123456789012", region="us-east-1", zones=("us-east-1a",), public_cidr="198.18.0.0/22"
)
MANIFEST = ImageManifest(
    name="tiny",
    description="An image",
    architecture="x86_64",
    machines=("q35", "microvm"),
    kernel="/images/tiny/vmlinux",
    disk="/images/tiny/disk.raw",
    disk_format="raw",
    disk_bytes=1 << 30,
    input_hash="abcdef0123456789",
)


async def test_an_ami_for_each_machine_type(bench: Any) -> None:
    await register(bench.store, bench.env, CLOUD, MANIFEST)
    async with bench.store.read() as reader:
        images = {image.name: image for image in await reader.find(Image)}
        snapshots = await reader.find(Snapshot)
    assert {name: image.machine for name, image in images.items()} == {
        "tiny-abcdef01": "q35",
        "microvm-tiny-abcdef01": "microvm",
    }
    assert images["tiny-abcdef01"].id == image_id(MANIFEST)
    assert {snapshot.image for snapshot in snapshots} == {image.id for image in images.values()}
    assert all(snapshot.state is SnapshotState.completed for snapshot in snapshots)


async def test_registering_again_changes_nothing(bench: Any) -> None:
    await register(bench.store, bench.env, CLOUD, MANIFEST)
    before = bench.store.revision
    await register(bench.store, bench.env, CLOUD, MANIFEST)
    assert bench.store.revision == before
