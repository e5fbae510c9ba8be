"""What tests of storage use of their cluster; whole clouds with clusters of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from gureum.images.manifest import ImageManifest
from gureum.san.base import RbdDisk
from gureum.san.ceph.cluster import ADMIN

from .ceph_cluster import OSD_BYTES, CephCluster
from .rbd import Cluster, Machine
from .san_cloud import SanCloud, opened
from .writer import Writer


@pytest.fixture
def cluster(ceph: CephCluster) -> Cluster:
    return Cluster(ceph.settings, ceph.cluster.keyring(ADMIN))


@pytest.fixture
def start() -> Iterator[Callable[[RbdDisk], Machine]]:
    """Machines that have ended when the test has."""
    machines: list[Machine] = []

    def start(disk: RbdDisk) -> Machine:
        machines.append(Machine(disk))
        return machines[-1]

    yield start
    for machine in machines:
        if machine.process.poll() is None:
            machine.close()


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest) -> Iterator[SanCloud]:
    """One that runs, the same one for all tests of a module."""
    with opened(tiny_image, OSD_BYTES) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def writer(cloud: SanCloud) -> Writer:
    return Writer(cloud)
