"""The pools of this host: its own, and those that it shares with others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gureum.agent.pool_volumes import PoolVolumes
from gureum.errors import PoolError
from gureum.hostspec import LOCAL, SnapshotSpec, VolumeSpec
from gureum.san.base import Pool


class Pools:
    """By the names that specs have for them."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = {name: PoolVolumes(name, pool) for name, pool in pools.items()}
        self.local = self._pools[LOCAL]
        self.shared = [pool for pool in self if pool.shared]

    def __iter__(self) -> Iterator[PoolVolumes]:
        return iter(self._pools.values())

    def find(self, name: str) -> PoolVolumes | None:
        return self._pools.get(name)

    def get(self, name: str) -> PoolVolumes:
        """Raises PoolError if this host has none of this name."""
        try:
            return self._pools[name]
        except KeyError:
            raise PoolError(f"this host has no pool {name}") from None

    def named(self, names: Iterable[str]) -> list[PoolVolumes]:
        """Those of them that this host has."""
        return [self._pools[name] for name in names if name in self._pools]

    def of(self, spec: VolumeSpec | SnapshotSpec) -> list[PoolVolumes]:
        """Those of this host in which there may be something of it."""
        return self.named(names_of(spec))


def names_of(spec: VolumeSpec | SnapshotSpec) -> tuple[str, ...]:
    """Of all pools in which there may be something of it."""
    if isinstance(spec, SnapshotSpec):
        return (spec.pool,)
    return tuple(filter(None, dict.fromkeys((spec.pool, spec.target, *spec.leaves, *spec.releases))))
