"""Agents and the manager die while traffic flows between guests on two hosts."""

from __future__ import annotations

import re

import pytest

from gureum.cli.processes import read_pid_file

from .guests import allow
from .shells import stream_to, streamed, take_stream
from .world import World, member_of

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(600)]

LOST_MAX = 2


def killed(world: World, role: str) -> None:
    """Until another one is ready."""
    pid = world.cloud.pid(role)
    world.cloud.kill(role)

    def renewed() -> bool:
        identity = read_pid_file(world.cloud.cloud.run_dir / f"{role}.pid")
        return identity is not None and identity.pid != pid and world.cloud.cloud.is_ready(role, identity)

    world.cloud.wait(f"another {role}", renewed)


def test_traffic_flows_while_agents_and_the_manager_die(world: World, request: pytest.FixtureRequest) -> None:
    sh, wait, near, far = world.shells, world.cloud.wait, world.guests["red-1"], world.guests["red-2"]
    take_stream(sh, far)
    command = (
        f"ping -i 0.1 {far.private} >/tmp/pings & pings=$!; {stream_to(far.private)}; "
        "kill -INT $pings; wait; tail -n 3 /tmp/pings"
    )
    with sh.running(near, command) as traffic:
        for role in ("agent-0", "agent-1", "manager"):
            before = wait("the stream to flow", lambda: streamed(sh, far))
            killed(world, role)
            wait("it to go on", lambda last=before[-1]: streamed(sh, far)[-1] > last + 20)
    counts = re.search(r"(\d+) packets transmitted, (\d+) packets received", traffic.text)
    assert counts, traffic.text
    sent, answered = int(counts[1]), int(counts[2])
    request.node.user_properties += [("pings_sent", sent), ("pings_lost", sent - answered)]
    assert sent - answered <= LOST_MAX
    found = streamed(sh, far)
    sh.run(far, "killall sleep")
    assert found == list(range(1, len(found) + 1))


def test_new_rules_apply_after_the_agents_died(world: World) -> None:
    ec2, sh, wait = world.cloud.ec2, world.shells, world.cloud.wait
    red, near, far = world.vpcs["red"], world.guests["red-1"], world.guests["red-2"]
    group = red.new_group("narrow", allow("tcp", (22, 22), cidr="0.0.0.0/0"))
    for role in ("agent-0", "agent-1"):
        killed(world, role)
    assert sh.finds(near, far.private) == ("red-2", near.private)
    with member_of(world, far, group):
        wait("all to be shut out", lambda: not sh.sees(near, far.private))
        world.cloud.kill("agent-1")
    wait("all to be let in", lambda: sh.sees(near, far.private))
    ec2.delete_security_group(GroupId=group)
