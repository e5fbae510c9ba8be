"""What system tests share: the machine image, clouds, a Ceph cluster, and their logs where a test fails.

GUREUM_TEST_CEPH=DIR, GUREUM_TEST_LIBRBD=DIR: with the daemons, or the librbd of workers, that
scripts/other_ceph.sh put there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from gureum.images.builder import build_tiny
from gureum.images.manifest import ImageManifest
from gureum.san.ceph import client, commands, modules

from .realcloud import CLOUDS, RealCloud, opened
from .san.ceph_cluster import CephCluster

CLUSTERS: list[CephCluster] = []


@pytest.fixture(scope="session")
def kept() -> Path:
    """A directory that runs share, at once too: of what is made again when its recipe changed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "gureum-tests")


@pytest.fixture(scope="session")
def tiny_image(kept: Path) -> ImageManifest:
    return asyncio.run(build_tiny(kept / "images", lambda _step, _share: None))


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest) -> Iterator[RealCloud]:
    """A cloud that runs, the same one for all tests of a module."""
    with opened(tiny_image) as made:
        made.start()
        yield made


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
    """The session's cluster, well: what an earlier test killed or paused runs again. Tests leave it so."""
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
        for cloud in CLOUDS:
            for name, text in cloud.logs().items():
                report.sections.append((f"{name}.log of {cloud.config.name}", text))
        for cluster in CLUSTERS:
            for name in cluster.daemons:
                report.sections.append((f"{name} of {cluster.directory}", cluster.log(name)))
    return report
