"""The cloud's storage cluster, as hosts of other machines are told of it when they join."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gureum.errors import TransportError
from gureum.files import make_directories, write_atomically
from gureum.san.ceph.cluster import Cluster
from gureum.san.settings import SanSettings
from gureum.transport.messages import Storage


def storage(state_dir: Path, san: SanSettings) -> Storage | None:
    """None if each host has its own disks. Raises TransportError if a host of another machine has none."""
    if san.kind == "local":
        return None
    if Cluster(state_dir).exists:
        raise TransportError(
            "this cloud's disks are in a storage cluster on its own machine, which others do not reach."
            " Hosts of other machines need one that they reach, too: a cloud made with --san ceph:CONF"
        )
    assert san.conf is not None
    assert san.keyring is not None
    try:
        conf, keyring = san.conf.read_bytes(), san.keyring.read_bytes()
    except OSError as error:
        raise TransportError(f"{error.filename} cannot be read: {error.strerror}") from error
    return Storage(conf=conf, keyring=keyring, user=san.user, pool=san.pool, further=san.further)


def keep(state_dir: Path, given: Storage, types: Mapping[str, str] | None = None) -> None:
    """On a machine that joins: what its agent and guests reach the cluster by. ``types``: which volumes are
    in which pool, for one with a manager; else as it was. Raises OSError.
    """
    cluster = Cluster(state_dir)
    make_directories(cluster.directory)
    conf, keyring = cluster.conf, cluster.keyring(given.user)
    write_atomically(conf, given.conf)
    conf.chmod(0o644)
    write_atomically(keyring, given.keyring)
    keyring.chmod(0o600)
    kept = SanSettings.load(state_dir).types if types is None else tuple(sorted(types.items()))
    SanSettings("ceph", conf, keyring, given.user, given.pool, kept, given.further).save(state_dir)
