"""A cloud as its user sees it: boto3 and ssh."""

from __future__ import annotations

import pytest

from .realcloud import RealCloud

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(300)]


def test_smoke(cloud: RealCloud) -> None:
    [id] = cloud.launch()
    cloud.waiter("instance_running", InstanceIds=[id])
    print(cloud.wait_ssh(id, "uname -a; ip link"))
    assert cloud.leaks() == []
    print(cloud.taps())
