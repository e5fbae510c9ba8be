"""One Ceph cluster for all tests of storage; each leaves it as it was."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from .ceph_cluster import CephCluster

CLUSTERS: list[CephCluster] = []


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
