"""Built images become AMIs: every image below the cloud's image directory is registered, and stays so."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path

from gureum.env import Env
from gureum.errors import GureumError
from gureum.images.manifest import ImageManifest, load_manifest
from gureum.resources import Image, Snapshot, SnapshotState
from gureum.resources.volume import OF_NO_VOLUME
from gureum.services.operation import Cloud
from gureum.store.base import Store, Transaction

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0


def image_id(manifest: ImageManifest, machine: str = "") -> str:
    """The same image has the same id in every cloud of a user; for a further machine type, another one."""
    parts = [manifest.name, manifest.input_hash]
    if machine and machine != manifest.machines[0]:
        parts.append(machine)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"ami-{digest[:17]}"


def image_name(manifest: ImageManifest, machine: str) -> str:
    """``tiny-1234abcd``, and ``microvm-tiny-1234abcd`` for a machine type that is not the preferred one."""
    name = f"{manifest.name}-{manifest.input_hash[:8]}"
    return name if machine == manifest.machines[0] else f"{machine}-{name}"


async def register(store: Store, env: Env, cloud: Cloud, manifest: ImageManifest) -> None:
    """Make the image AMIs of the cloud's account, one for each machine type it boots on. Idempotent."""

    async def work(tx: Transaction) -> None:
        for machine in manifest.machines:
            if await tx.get(Image, image_id(manifest, machine)) is None:
                await _put(tx, env, cloud, manifest, machine)

    await store.transact(work)


async def _put(tx: Transaction, env: Env, cloud: Cloud, manifest: ImageManifest, machine: str) -> None:
    """An AMI, and the snapshot that its disk shows as."""
    id, name = image_id(manifest, machine), image_name(manifest, machine)
    snapshot = Snapshot(
        id=f"snap-{id[4:]}",
        account=cloud.account,
        state=SnapshotState.completed,
        volume=OF_NO_VOLUME,
        size_bytes=manifest.disk_bytes,
        description=f"Disk of image {name}",
        started=env.utcnow(),
        image=id,
    )
    await tx.put(snapshot)
    await tx.put(
        Image(
            id=id,
            account=cloud.account,
            name=name,
            description=manifest.description,
            architecture=manifest.architecture,
            machine=machine,
            kernel=manifest.kernel or "",
            initrd=manifest.initrd or "",
            cmdline=manifest.cmdline,
            disk=manifest.disk,
            disk_format=manifest.disk_format,
            disk_bytes=manifest.disk_bytes,
            root_device=manifest.root_device,
            login=manifest.login or "",
            snapshot=snapshot.id,
            public=True,
            created=env.utcnow(),
        )
    )
    log.info("image %s is now %s", name, id)


async def register_all(store: Store, env: Env, cloud: Cloud, directory: Path) -> None:
    """Register every whole image below ``directory``; one that is not whole is logged and passed over."""
    for path in sorted(directory.glob("*/manifest.json")):
        try:
            manifest = load_manifest(path.parent)
        except GureumError as error:
            log.warning("image %s is not usable: %s", path.parent.name, error)
            continue
        await register(store, env, cloud, manifest)


async def register_forever(store: Store, env: Env, cloud: Cloud, directory: Path) -> None:
    """Register images as they are built."""
    seen = 0
    while True:
        changed = directory.stat().st_mtime_ns if directory.exists() else 0
        if changed != seen:
            await register_all(store, env, cloud, directory)
            seen = changed
        await asyncio.sleep(LOOK_SECONDS)
