"""Three hosts on one machine: instances in three zones, and what becomes of them when an agent dies."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

import gureum
from gureum.cli import machine_hosts
from gureum.cli.output import CliError
from gureum.cli.processes import read_pid_file
from gureum.images.manifest import ImageManifest

from .realcloud import RealCloud, opened, refused

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(600)]

ZONES = "abc"


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest) -> Iterator[RealCloud]:
    with opened(tiny_image, hosts=3) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def guests(cloud: RealCloud) -> list[str]:
    """One in each zone, all running, and pingable by each other."""
    cloud.ec2.authorize_security_group_ingress(
        GroupId=cloud.default_group(), IpProtocol="icmp", FromPort=-1, ToPort=-1, CidrIp="0.0.0.0/0"
    )
    ids = [cloud.launch(Placement={"AvailabilityZone": f"us-east-1{zone}"})[0] for zone in ZONES]
    cloud.waiter("instance_running", InstanceIds=ids)
    return ids


def test_each_zone_has_its_host(cloud: RealCloud, guests: list[str]) -> None:
    for number, id in enumerate(guests):
        namespace = os.stat(f"/run/netns/gh{cloud.config.index}-{number}")
        assert os.stat(f"/proc/{cloud.pid(f'agent-{number}')}/ns/net").st_ino == namespace.st_ino
        assert (cloud.cloud.host_run_dirs()[number] / "machines" / id).is_dir()


def test_guests_reach_each_other_across_hosts(cloud: RealCloud, guests: list[str]) -> None:
    addresses = [cloud.instance(id)["PrivateIpAddress"] for id in guests]
    for id in guests:
        cloud.wait_ssh(id)
    for id in guests:
        for address in addresses:
            cloud.wait(f"{id} to reach {address}", lambda id=id, to=address: pinged(cloud, id, to))


def pinged(cloud: RealCloud, id: str, address: str) -> bool:
    return " 0% packet loss" in cloud.try_ssh(id, f"ping -c 1 -W 3 {address}")


def test_hosts_say_how_busy_their_guests_are(cloud: RealCloud, guests: list[str]) -> None:
    busy = f"host-{ZONES.index('b')}"
    cloud.wait_ssh(guests[1], "(while :; do :; done) >/dev/null 2>&1 & echo $! | tee /tmp/busy")

    def told() -> bool:
        loads = {each["HostId"]: each for each in cloud.fleet("describe_recommendations")["HostLoads"]}
        if len(loads) < len(guests) or not all(each["Measured"] for each in loads.values()):
            return False
        assert all(each["MemoryPercent"] > 0 for each in loads.values())
        most = max(loads.values(), key=lambda each: float(each["CpuPercent"]))
        return most["HostId"] == busy and float(most["CpuPercent"]) > 10

    cloud.wait(f"{busy} to be the busiest", told, 240)
    assert cloud.wait_ssh(guests[1], "kill $(cat /tmp/busy) && echo ended") == "ended"


def test_a_guest_outlives_its_agent(cloud: RealCloud, guests: list[str]) -> None:
    before = cloud.boot_id(guests[1])
    pids = cloud.qemu_pids()
    killed = cloud.pid("agent-1")
    os.kill(killed, signal.SIGKILL)
    cloud.wait("another agent", lambda: agent_other_than(cloud, killed))
    assert cloud.qemu_pids() == pids
    assert cloud.boot_id(guests[1]) == before
    cloud.ec2.reboot_instances(InstanceIds=[guests[1]])
    cloud.wait("a reboot", lambda: cloud.boot_id(guests[1]) != before)


def test_the_agents_of_all_hosts_start_anew_and_no_guest_notices(cloud: RealCloud, guests: list[str]) -> None:
    agents = [cloud.pid(f"agent-{number}") for number in range(3)]
    pids, boots = cloud.qemu_pids(), [cloud.boot_id(id) for id in guests]
    cloud.fleet("start_upgrade", HostIds=[f"host-{number}" for number in range(3)])
    cloud.wait("the end of the upgrade", lambda: newest_upgrade(cloud)["State"] != "running", 180)
    ended = newest_upgrade(cloud)
    assert ended["State"] == "completed", ended
    assert not {cloud.pid(f"agent-{number}") for number in range(3)} & set(agents)
    assert cloud.qemu_pids() == pids
    assert [cloud.boot_id(id) for id in guests] == boots
    versions = {host["Version"] for host in cloud.fleet("describe_hosts")["Hosts"]}
    assert versions == {gureum.__version__}


def newest_upgrade(cloud: RealCloud) -> dict[str, Any]:
    return dict(cloud.fleet("describe_upgrades")["Upgrades"][0])


def agent_other_than(cloud: RealCloud, pid: int) -> bool:
    identity = read_pid_file(cloud.cloud.run_dir / "agent-1.pid")
    return identity is not None and identity.pid != pid and cloud.cloud.is_ready("agent-1", identity)


def test_a_host_that_is_cut_off_is_built_again(cloud: RealCloud, guests: list[str]) -> None:
    """Somebody deletes the cable: the agent, started anew, puts it back."""
    subprocess.run(["ip", "link", "delete", f"gv{cloud.config.index}-2"], check=True)
    killed = cloud.pid("agent-2")
    os.kill(killed, signal.SIGKILL)
    cloud.wait("ssh after the repair", lambda: cloud.try_ssh(guests[2], "echo there") == "there")


def test_hosts_are_not_taken_from_under_their_guests(cloud: RealCloud, guests: list[str]) -> None:
    with pytest.raises(CliError, match="runs already, with --hosts 3"):
        machine_hosts.change(cloud.cloud, 2)
    cloud.stop()
    with pytest.raises(CliError, match="guests run on the hosts that there are"):
        machine_hosts.change(cloud.cloud, 2)
    machine_hosts.change(cloud.cloud, 4)
    cloud.config = cloud.cloud.configure(hosts=4)
    cloud.start()
    assert set(cloud.qemu_pids()) == set(guests)
    assert cloud.wait_ssh(guests[0], "echo there") == "there"
    cloud.wait("the fourth host", lambda: len(cloud.fleet("describe_hosts")["Hosts"]) == 4)


def test_a_guest_goes_to_another_host_with_its_disk(cloud: RealCloud, guests: list[str]) -> None:
    """Its memory and what is in the pool of its host, which no other one reaches."""
    id, boot = guests[0], cloud.boot_id(guests[0])
    cloud.ssh(id, "dd if=/dev/urandom of=/noise bs=1M count=4 2>/dev/null; md5sum /noise >/sum; sync")
    with refused("InvalidStateException"):
        cloud.fleet("migrate_instance", InstanceId=id, HostId="host-1")
    migration = cloud.fleet("migrate_instance", InstanceId=id, HostId="host-3")["InstanceMigration"]

    def now() -> dict[str, Any]:
        found = cloud.fleet("describe_instance_migrations", MigrationIds=[migration["MigrationId"]])
        shown: dict[str, Any] = found["InstanceMigrations"][0]
        return shown

    cloud.wait("its end", lambda: now()["State"] in ("completed", "failed", "cancelled"), seconds=300)
    assert now()["State"] == "completed", now()
    assert now()["DiskCopiedBytes"] > 4 << 20
    assert (cloud.cloud.host_run_dirs()[3] / "machines" / id).is_dir()
    cloud.wait_ssh(id)
    assert cloud.boot_id(id) == boot
    cloud.ssh(id, "echo 3 >/proc/sys/vm/drop_caches; md5sum -c /sum")
    cloud.wait_clean()


def test_an_empty_host_is_parked_and_woken(cloud: RealCloud, guests: list[str]) -> None:
    """The one that the guest has left, by the fence agent for the hosts of one machine."""

    def power() -> str:
        found = cloud.fleet("describe_host_power", HostIds=["host-0"])["HostPowers"][0]
        return str(found["PowerState"])

    cloud.fleet("modify_host_power", HostId="host-0", Agent="machine-host")
    cloud.fleet("modify_fleet_settings", HeadroomPercent=0)
    with refused("InvalidHostStateException"):
        cloud.fleet("park_host", HostId="host-3")
    before = cloud.pid("agent-0")
    cloud.fleet("park_host", HostId="host-0")
    cloud.wait("the host to be off", lambda: power() == "parked")
    assert read_pid_file(cloud.cloud.run_dir / "agent-0.pid") is None
    cloud.fleet("wake_host", HostId="host-0")
    cloud.wait("the host to be back", lambda: power() == "awake")
    assert cloud.pid("agent-0") != before
    assert set(cloud.qemu_pids()) == set(guests)


def test_a_host_is_drained(cloud: RealCloud, guests: list[str]) -> None:
    cloud.fleet("drain_host", HostId="host-1")
    with refused("InvalidHostStateException"):
        cloud.fleet("remove_host", HostId="host-1")
    with refused("InsufficientInstanceCapacity"):
        cloud.launch(Placement={"AvailabilityZone": "us-east-1b"})
    cloud.fleet("activate_host", HostId="host-1")


def test_nothing_leaks(cloud: RealCloud, guests: list[str]) -> None:
    cloud.wait_clean()
    cloud.ec2.terminate_instances(InstanceIds=guests)
    cloud.waiter("instance_terminated", InstanceIds=guests)
    cloud.wait_clean()
