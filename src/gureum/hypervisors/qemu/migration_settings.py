"""What a QEMU is told before a migration: its capabilities, and the secret of both ends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gureum.hypervisors.qemu import secret_dir
from gureum.hypervisors.qemu.monitor import CommandError, Monitor

CREDENTIALS = "migration"
"""The TLS object."""
CIPHERS = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:+CHACHA20-POLY1305"
"""GnuTLS prefers ChaCha20 of those that a shared key can be used with (SHA256): four times the CPU time."""
SECRET_SET = 2
"""The fdset of the directory with the secret."""


async def use_secret(monitor: Monitor, directory: Path, secret: bytes, uid: int, endpoint: str) -> None:
    """Let what is sent or received be TLS by the secret. ``uid``: QEMU's."""
    opened = secret_dir.write(directory, secret, uid)
    with contextlib.suppress(CommandError):  # there is none from before
        await monitor.execute("object-del", {"id": CREDENTIALS})
    with contextlib.suppress(CommandError):
        await monitor.execute("remove-fd", {"fdset-id": SECRET_SET})
    try:
        there = await monitor.send_file(SECRET_SET, opened, "secret")
    finally:
        os.close(opened)
    await monitor.execute(
        "object-add",
        {
            "qom-type": "tls-creds-psk",
            "id": CREDENTIALS,
            "endpoint": endpoint,
            "dir": f"/proc/self/fd/{there}",
            "priority": CIPHERS,
        },
    )


async def set_capabilities(monitor: Monitor, names: tuple[str, ...], **others: bool) -> None:
    states = dict.fromkeys(names, True) | others
    capabilities = [{"capability": name, "state": state} for name, state in states.items()]
    await monitor.execute("migrate-set-capabilities", {"capabilities": capabilities})
