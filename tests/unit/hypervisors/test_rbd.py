from __future__ import annotations

import os
from pathlib import Path

import pytest

from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.rbd import confine, find_key, image_below, memory_file, open_rbd, rbd_node
from gureum.san.base import RbdDisk

KEYRING = """[client.admin]
\tkey = AQAadmin==
[client.gureum]
\tkey = AQAgureum==
\tcaps mon = "profile rbd"
[client.other]
\tkey = AQAother==
"""
CONF = """[global]
mon_host = [v2:127.0.0.1:3300]
keyring = /etc/ceph/keyring
admin socket = /run/ceph/$name.asok
log_file = /var/log/ceph/x.log
[client.gureum]
key = AQAsecret==
rbd_cache_size = 1
"""


def test_key_is_the_users() -> None:
    assert find_key(KEYRING, "gureum", "k") == "AQAgureum=="
    with pytest.raises(HypervisorError, match=r"k has no key for client\.nobody"):
        find_key(KEYRING, "nobody", "k")
    with pytest.raises(HypervisorError, match="no key"):
        find_key("[client.gureum]\n[client.admin]\nkey = AQAadmin==\n", "gureum", "k")


def test_configuration_has_no_secret_and_no_path() -> None:
    confined = confine(CONF, "gureum")
    assert "AQAsecret" not in confined
    assert "/" not in confined
    assert "mon_host = [v2:127.0.0.1:3300]" in confined
    assert "rbd_cache_size = 1" in confined
    assert confined.endswith("[client.gureum]\nclient_mount_timeout = 15\n")


def test_file_in_memory_cannot_be_changed() -> None:
    fd = memory_file("name", "text")
    try:
        assert os.pread(fd, 100, 0) == b"text"
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def test_opened(tmp_path: Path) -> None:
    keyring, conf = tmp_path / "keyring", tmp_path / "ceph.conf"
    keyring.write_text(KEYRING)
    disk = RbdDisk(pool="vm", image="a", conf=str(conf), user="gureum", keyring=str(keyring))
    with pytest.raises(HypervisorError, match=r"ceph\.conf"):
        open_rbd(disk, 10)
    conf.write_text(CONF)
    opened = open_rbd(disk, 10)
    assert os.pread(opened.conf, 1 << 16, 0).decode() == confine(CONF, "gureum")
    assert opened.secret == "AQAgureum=="
    opened.close()
    node = rbd_node("vol-1.10f", disk, 30, "vol-1.10.auth")
    assert (node["conf"], node["key-secret"]) == ("/proc/self/fd/30", "vol-1.10.auth")


@pytest.mark.parametrize(
    ("said", "image"),
    [
        ('json:{"driver": "raw", "file": {"driver": "rbd", "pool": "p", "image": "i"}}', "rbd:p/i"),
        (
            'json:{"driver": "luks", "file": {"driver": "raw", "file": '
            '{"driver": "rbd", "pool": "p", "image": "i"}}}',
            "rbd:p/i",
        ),
        ('json:{"driver": "raw", "file": {"driver": "file", "filename": "x"}}', ""),
        ("/dev/fdset/10", ""),
    ],
)
def test_image_that_a_node_is_made_of(said: str, image: str) -> None:
    assert image_below(said) == image
