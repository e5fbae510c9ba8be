"""Images of a storage cluster, for tests."""

from __future__ import annotations

import json
import random
import subprocess

from gureum.san.base import RbdDisk
from gureum.san.luks import LUKS_HEADER_BYTES, luks_header
from gureum.san.settings import SanSettings


class Images:
    """Each has a name of its own; they go with the cluster."""

    def __init__(self, settings: SanSettings) -> None:
        self.settings = settings

    def rbd(self, *command: str, given: bytes = b"") -> bytes:
        """What an rbd command says."""
        settings = self.settings
        options = ("--conf", str(settings.conf), "--id", settings.user, "--keyring", str(settings.keyring))
        done = subprocess.run(
            ["rbd", *options, "--pool", settings.pool, *command],
            input=given,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"rbd {' '.join(command)}: {done.stderr.decode()}"
        return done.stdout

    def create(self, size_bytes: int, key: bytes = b"") -> RbdDisk:
        name = f"test{random.getrandbits(40):010x}"
        if key:
            self.rbd("import", "-", name, "--no-progress", given=luks_header(key))
            self.rbd("resize", name, "--size", f"{LUKS_HEADER_BYTES + size_bytes}B", "--no-progress")
        else:
            self.rbd("create", name, "--size", f"{size_bytes}B")
        settings = self.settings
        return RbdDisk(
            pool=settings.pool,
            image=name,
            conf=str(settings.conf),
            user=settings.user,
            keyring=str(settings.keyring),
        )

    def content(self, disk: RbdDisk, size_bytes: int) -> bytes:
        return self.rbd("export", disk.image, "-", "--no-progress")[:size_bytes]

    @staticmethod
    def watchers(status: bytes) -> list[str]:
        """The addresses of those who have an image open."""
        return [watcher["address"] for watcher in json.loads(status)["watchers"]]
