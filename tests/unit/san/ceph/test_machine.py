import socket
from pathlib import Path

import pytest

from gureum.errors import PoolError
from gureum.san.ceph import machine
from gureum.san.ceph.machine import daemon_user


def test_the_monitor_s_port_is_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "storage_ports", lambda _index: range(28123, 28223))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 28123))
        taken.listen()
        assert machine.choose_port(0, "127.0.0.1") == 28124
        monkeypatch.setattr(machine, "MON_PORTS", 1)
        with pytest.raises(PoolError, match="28123 to 28123"):
            machine.choose_port(0, "127.0.0.1")


def test_daemons_are_root_where_others_cannot_pass(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert daemon_user(closed) is None
