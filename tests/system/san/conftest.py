"""One Ceph cluster for all tests of storage, each of which leaves it as it was; whole clouds with their own.

GUREUM_TEST_CEPH=DIR, GUREUM_TEST_LIBRBD=DIR: with the daemons, or the librbd of workers, that
scripts/other_ceph.sh put there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from gureum.images.manifest import ImageManifest
from gureum.san.base import RbdDisk
from gureum.san.ceph import client, commands, modules
from gureum.san.ceph.cluster import ADMIN

from .ceph_cluster import OSD_BYTES, CephCluster
from .rbd import Cluster, Machine
from .san_cloud import SanCloud, opened
from .writer import Writer

CLUSTERS: list[CephCluster] = []


@pytest.fixture(scope="session", autouse=True)
def _other_ceph() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if daemons := os.environ.get("GUREUM_TEST_CEPH"):
            patch.setenv("PATH", f"{daemons}/bin:{os.environ['PATH']}")
            patch.setattr(modules, "MGR_LIBRARY", Path(daemons, "root/usr/share/ceph/mgr"))
        if library := os.environ.get("GUREUM_TEST_LIBRBD"):
            for module in (client, commands):
                patch.setattr(module, "PYTHON", f"{library}/python3")
        yield


@pytest.fixture(scope="session")
def ceph_session() -> Iterator[CephCluster]:
    made = CephCluster()
    CLUSTERS.append(made)
    try:
        made.bring_up()
        yield made
    finally:
        CLUSTERS.remove(made)
        made.close()


@pytest.fixture
def ceph(ceph_session: CephCluster) -> CephCluster:
    """The session's cluster, well: what an earlier test killed or paused runs again."""
    for name in ceph_session.daemons:
        if ceph_session.runs(name):
            ceph_session.resume(name)
    ceph_session.bring_up()
    return ceph_session


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for cluster in CLUSTERS:
            for name in cluster.daemons:
                report.sections.append((f"{name} of {cluster.directory}", cluster.log(name)))
    return report
