"""Fence agents: executables that are told on their standard input what to do."""

from __future__ import annotations

import asyncio
import pwd
import random
import tempfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.control.fence_agents import OWN, TESTS_MAX, Action, Answer, FenceAgents, NoSwitch, opened, sealed
from gureum.control.hooks import SHOWN
from gureum.control.keys import KeyStore
from gureum.env import Env
from gureum.errors import ConfigError
from gureum.resources import HostPower

KEYS = KeyStore(b"k" * 32)
ENV = Env(rng=random.Random(1))
POWER = HostPower(id="host-1", agent="mine", options={"ip": "192.0.2.9", "plug": "7"})


def agents(tmp_path: Path, text: str, name: str = "mine") -> FenceAgents:
    """With one of the operator's own."""
    path = tmp_path / OWN / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return FenceAgents(tmp_path, KEYS, installed=tmp_path / "sbin")


def with_secrets(**secrets: str) -> HostPower:
    return replace(POWER, sealed=sealed(KEYS, ENV, POWER.id, secrets))


async def test_it_is_told_all_on_its_standard_input_and_nothing_else(tmp_path: Path) -> None:
    switch = agents(tmp_path, f'cat >{tmp_path}/told; echo "$#" >>{tmp_path}/told')
    assert await switch(with_secrets(password="s3cret"), Action.off) == Answer(on=False)
    told = (tmp_path / "told").read_text().splitlines()
    assert told == ["action=off", "nodename=host-1", "ip=192.0.2.9", "plug=7", "password=s3cret", "0"]


@pytest.mark.parametrize(("code", "answer"), [(0, Answer(on=True)), (2, Answer(on=False))])
async def test_its_exit_code_says_whether_the_host_is_on(tmp_path: Path, code: int, answer: Answer) -> None:
    assert await agents(tmp_path, f"exit {code}")(POWER, Action.status) == answer


async def test_what_it_said_is_why_it_failed_without_its_secrets(tmp_path: Path) -> None:
    switch = agents(tmp_path, "echo 'no: s3cret is wrong for 192.0.2.9' >&2; exit 1")
    for action in Action:
        answer = await switch(with_secrets(password="s3cret"), action)
        assert answer.error == "mine: it ended with 1: no: *** is wrong for 192.0.2.9"
    failed = await agents(tmp_path, "exit 2")(POWER, Action.off)
    assert failed.error, "only a status can be off"


async def test_a_secret_is_hidden_also_where_what_it_said_is_cut(tmp_path: Path) -> None:
    switch = agents(tmp_path, f"echo s3cret{'x' * (SHOWN - 3)}; exit 1")
    error = (await switch(with_secrets(password="s3cret"), Action.off)).error
    assert error.endswith("x")
    assert "ret" not in error


async def test_few_are_asked_at_a_time_and_that_keeps_none_from_being_switched(tmp_path: Path) -> None:
    go = tmp_path / "go"
    switch = agents(tmp_path, f"grep -q action=on || until [ -e {go} ]; do sleep 0.1; done")
    asked = [asyncio.create_task(switch(POWER, Action.status)) for _ in range(TESTS_MAX)]
    await asyncio.sleep(0)
    assert "try again" in (await switch(POWER, Action.status)).error
    assert await switch(POWER, Action.on) == Answer(on=True)
    go.touch()
    assert await asyncio.gather(*asked) == TESTS_MAX * [Answer(on=True)]


async def test_where_it_is_looked_for(tmp_path: Path) -> None:
    switch = agents(tmp_path, "exit 0")
    assert switch.refusal("mine", remote=True) == ""
    for name in ("fence_absent", "../../mine", "/bin/sh", ""):
        assert "there is no fence agent" in switch.refusal(name, remote=True)
        assert "there is no fence agent" in (await switch(replace(POWER, agent=name), Action.on)).error
    installed = tmp_path / "sbin"
    installed.mkdir()
    for name in ("fence_some", "reboot"):
        (installed / name).symlink_to("/bin/true")
    assert switch.refusal("fence_some", remote=True) == ""
    assert switch.refusal("reboot", remote=True), "not all that root may call is a fence agent"
    assert NoSwitch().refusal("mine", remote=True)
    assert (await NoSwitch()(POWER, Action.on)).error


async def test_it_is_not_told_what_starts_programs_also_if_the_store_has_that(tmp_path: Path) -> None:
    switch = agents(tmp_path, f"touch {tmp_path}/called")
    for power in (replace(POWER, options={"ssh-path": "/x"}), with_secrets(password_script="/x")):
        assert "start other programs" in (await switch(power, Action.status)).error
    assert not (tmp_path / "called").exists()


@pytest.mark.root
async def test_those_of_the_distribution_run_without_privileges(tmp_path: Path) -> None:
    switch = agents(tmp_path, "id -u >&2; exit 1")
    assert (await switch(POWER, Action.status)).error.endswith(": 0"), "the operator's own may do all"
    with tempfile.TemporaryDirectory(prefix="gureum-agents-") as installed:
        Path(installed).chmod(0o755)
        some = Path(installed) / "fence_some"
        some.write_text("#!/bin/sh\ngrep -E 'Uid|Groups|CapEff|NoNewPrivs' /proc/$$/status >&2; exit 1\n")
        some.chmod(0o755)
        switch = FenceAgents(tmp_path, KEYS, installed=Path(installed))
        said = (await switch(replace(POWER, agent="fence_some"), Action.status)).error
    uids = " ".join(4 * [str(pwd.getpwnam("nobody").pw_uid)])
    assert " ".join(said.split()).endswith(f"Uid: {uids} Groups: CapEff: {0:016x} NoNewPrivs: 1")


async def test_the_managers_own_machine_is_not_switched(tmp_path: Path) -> None:
    switch = agents(tmp_path, "exit 0")
    assert "would switch itself off" in switch.refusal("mine", remote=False)
    assert switch.refusal("machine-host", remote=False) == ""
    assert "manager's own machine" in switch.refusal("machine-host", remote=True)


async def test_secrets_are_opened_by_the_master_key_for_their_host_only(tmp_path: Path) -> None:
    power = with_secrets(password="s3cret")
    assert b"s3cret" not in power.sealed
    assert opened(KEYS, power) == {"password": "s3cret"}
    assert opened(KEYS, POWER) == {}
    with pytest.raises(ConfigError, match="power of host-2"):
        opened(KEYS, replace(power, id="host-2"))
    other = FenceAgents(tmp_path, KeyStore(b"o" * 32), installed=tmp_path)
    agents(tmp_path, "exit 0")
    assert "master key" in (await other(power, Action.off)).error
