"""The pool on a host's own disk."""

from __future__ import annotations

from pathlib import Path

from gureum.env import Env
from gureum.san.files import FileLayers
from gureum.san.pool import CHAIN_MAX, LayeredPool

RESERVE_BYTES = 256 << 20


class LocalPool(LayeredPool):
    """Volumes as qcow2 files below ``root``. One process at a time has it.

    ``reserve_bytes`` of the file system are left free by whatever the pool does itself. Volumes are thin:
    guests can write until the file system is full, and are then held by the hypervisor.
    """

    def __init__(
        self, env: Env, root: Path, reserve_bytes: int = RESERVE_BYTES, chain_max: int = CHAIN_MAX
    ) -> None:
        super().__init__(env, FileLayers(root), f"pool {root}", reserve_bytes, chain_max)
