from __future__ import annotations

import os
from pathlib import Path

from gureum.hypervisors.qemu import secret_dir


def test_it_is_its_users_alone(tmp_path: Path) -> None:
    directory = tmp_path / "psk"
    for secret in (b"\1\2", b"\3\4"):
        os.close(secret_dir.write(directory, secret, os.geteuid()))
        assert secret_dir.read(directory) == secret
        assert directory.stat().st_mode & 0o777 == 0o500
        assert (directory / "keys.psk").stat().st_mode & 0o777 == 0o400
        assert (directory / "keys.psk").read_text() == f"qemu:{secret.hex()}\n"
    secret_dir.remove(directory)
    secret_dir.remove(directory)
    assert not directory.exists()
    assert secret_dir.read(directory) == b""
