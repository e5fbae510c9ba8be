"""What `gureum up --volume-types` says: in which pool the volumes of each EBS type are made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gureum.cli.cloud import Cloud
from gureum.cli.output import USAGE, CliError
from gureum.cli.store import exists, transact
from gureum.hostspec import LOCAL
from gureum.resources import Host, HostCertificate, Snapshot, Volume, VolumeState
from gureum.resources.volume import VOLUME_TYPES, shared
from gureum.san.settings import SanSettings
from gureum.store.base import Transaction

OFF = "off"
POOLS_MAX = 8
"""Each costs every host a process, and the OSDs of a cloud's own cluster placement groups."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
"""Of a pool: RADOS takes more, librbd's and QEMU's names of images do not."""


def parse(text: str | None) -> dict[str, str] | None:
    """Pools by volume type; None where nothing is said, nothing for `off`. Raises CliError."""
    if text is None:
        return None
    if text == OFF:
        return {}
    types: dict[str, str] = {}
    for part in text.split(","):
        type, _, pool = part.strip().partition("=")
        if type not in VOLUME_TYPES:
            raise CliError(
                f"{type!r} is no volume type", f"choose from: {', '.join(VOLUME_TYPES)}", exit_code=USAGE
            )
        if type in types:
            raise CliError(f"{type} is named twice", "each volume type has one pool", exit_code=USAGE)
        if not NAME.fullmatch(pool):
            raise CliError(
                f"{pool!r} is no name of a pool",
                f"as in {type}={LOCAL} or {type}=bulk: letters, digits, '_', '-' and '.'",
                exit_code=USAGE,
            )
        types[type] = pool
    return types


def word(types: Mapping[str, str]) -> str:
    """How it is said to --volume-types."""
    return ",".join(f"{type}={pool}" for type, pool in types.items()) or OFF


def chosen(cloud: Cloud, settings: SanSettings, types: Mapping[str, str]) -> SanSettings:
    """The settings with these types and the pools that they need. Raises CliError, GureumError.

    A pool that no type leads to any more stays, while volumes or snapshots are in it.
    """
    given = tuple(sorted(types.items()))
    if cloud.is_running():
        if given == settings.types:
            return settings
        raise CliError(
            f"the cloud runs already, with --volume-types {word(dict(settings.types))}",
            f"gureum down, then up --volume-types {word(types)}",
        )
    if settings.kind == LOCAL:
        if elsewhere := next((each for each in types.items() if shared(each[1])), None):
            type, pool = elsewhere
            raise CliError(
                f"{type} cannot be in the pool {pool!r}: this cloud's disks are on its hosts",
                f"{type}={LOCAL}; or a cloud with --san ceph",
            )
        return replace(settings, types=given)
    wanted = set(filter(shared, types.values()))
    kept, afar = _kept(cloud.state_dir / "store.db", settings.further)
    further = (wanted | kept) - {settings.pool}
    if 1 + len(further) > POOLS_MAX:
        old = sorted(kept - wanted)
        raise CliError(
            f"that is more than {POOLS_MAX} pools: {', '.join((settings.pool, *sorted(further)))}",
            f"no type needs {', '.join(old)}: delete or move what is in there" if old else "name fewer",
        )
    if (new := sorted(further - set(settings.further))) and afar:
        raise CliError(
            f"hosts of other machines know the pools that there were when they joined, not {', '.join(new)}:"
            f" {', '.join(afar)}",
            "gureum host remove each, and gureum host join it again afterwards",
        )
    return replace(settings, types=given, further=tuple(sorted(further)))


def _kept(store: Path, pools: tuple[str, ...]) -> tuple[set[str], list[str]]:
    """Those of the pools that have volumes or snapshots, and the hosts of other machines."""

    async def look(tx: Transaction) -> tuple[set[str], list[str]]:
        volumes = [each for each in await tx.find(Volume) if each.state is not VolumeState.deleted]
        used = {pool for volume in volumes for pool in volume.pools}
        used |= {each.pool for each in await tx.find(Snapshot)}
        joined = {each.host for each in await tx.find(HostCertificate) if not each.revoked}
        return used & set(pools), sorted(joined & {each.id for each in await tx.find(Host)})

    return transact(store, look) if exists(store) else (set(), [])
