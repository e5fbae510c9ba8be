"""What is not encrypted, copied into a new encrypted volume: by qemu-img, which encrypts on the way.

All of the source is copied, zeros too: what was never written to an encrypted volume is no zeros to the
machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gureum.errors import PoolError
from gureum.san import qemu_img
from gureum.san.base import DiskSource, FileDisk, RbdDisk
from gureum.san.luks import passphrase

BYTES_PER_SECOND_MIN = 2 << 20
"""Less, and something hangs."""
BYTES_PER_CPU_SECOND_MIN = 50 << 20
START_SECONDS = 120.0


async def copy(
    source: DiskSource,
    target: DiskSource,
    key: bytes,
    size_bytes: int,
    progress: Callable[[float], None] | None = None,
) -> None:
    """``target`` begins with the LUKS header of ``key``, and is not smaller; nobody else has them open.

    ``progress`` is told percents. Cut short it can be done again from its beginning. Raises PoolError.
    """
    secrets = [("key", "raw", passphrase(key))]
    if isinstance(target, RbdDisk):
        secrets.append(("cluster", "base64", _cluster_key(target)))
    pipes: list[int] = []
    try:
        objects: list[str] = []
        for id, format, text in secrets:
            pipes.append(_piped(text))
            objects += ["--object", f"secret,id={id},format={format},file=/dev/fd/{pipes[-1]}"]
        await qemu_img.run(
            ["convert", "-p", "-n", *objects, "--target-image-opts", _read(source), _written(target)],
            START_SECONDS + size_bytes / BYTES_PER_SECOND_MIN,
            memory_bytes=qemu_img.RBD_MEMORY_BYTES,
            pass_fds=pipes,
            cpu_seconds=qemu_img.CPU_SECONDS + size_bytes // BYTES_PER_CPU_SECOND_MIN,
            progress=progress,
        )
    finally:
        for pipe in pipes:
            os.close(pipe)


def _piped(text: str) -> int:
    """What reads as this text, once. Short ones only: they fit into the pipe."""
    end, feed = os.pipe()
    with os.fdopen(feed, "wb") as pipe:
        pipe.write(text.encode())
    return end


def _cluster_key(disk: RbdDisk) -> str:
    """The key of the cluster's user, as the keyring has it."""
    from gureum.san.ceph.keys import read_keyring  # only where there is a cluster

    try:
        return read_keyring(Path(disk.keyring).read_text())[f"client.{disk.user}"]
    except (OSError, KeyError) as error:
        raise PoolError(f"{disk.keyring} has no key of client.{disk.user}") from error


def _read(disk: DiskSource) -> str:
    """As a file name for QEMU, with each layer named: what the files say of their backing is not followed."""
    if isinstance(disk, RbdDisk):
        return _rbd(disk)
    node: dict[str, Any] | None = None
    for layer in reversed(disk.layers):
        backing = {"backing": node} if layer.format == "qcow2" else {}
        file = {"driver": "file", "filename": layer.path}
        node = {"driver": layer.format, "file": file, **backing}
    return "json:" + json.dumps(node)


def _written(disk: DiskSource) -> str:
    """As options: LUKS over the volume."""
    luks = "driver=luks,key-secret=key"
    if isinstance(disk, FileDisk):
        if len(disk.layers) != 1:
            raise PoolError(f"{disk.layers[0].path}: a new volume has one layer, not {len(disk.layers)}")
        [layer] = disk.layers
        path = layer.path.replace(",", ",,")
        return f"{luks},file.driver={layer.format},file.file.driver=file,file.file.filename={path}"
    parts = {"pool": disk.pool, "image": disk.image, "user": disk.user, "conf": disk.conf}
    options = "".join(f",file.{name}={value.replace(',', ',,')}" for name, value in parts.items())
    return f"{luks},file.driver=rbd,file.key-secret=cluster{options}"


def _rbd(disk: RbdDisk) -> str:
    parts = {"id": disk.user, "conf": disk.conf, "keyring": disk.keyring}
    options = "".join(f":{name}={_escaped(value)}" for name, value in parts.items())
    return f"rbd:{_escaped(disk.pool)}/{_escaped(disk.image)}{options}"


def _escaped(text: str) -> str:
    for character in "\\:@=":
        text = text.replace(character, "\\" + character)
    return text
