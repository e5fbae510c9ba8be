import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gureum.cli import supervisor
from gureum.cli.children import little_process
from gureum.cli.cloud import Cloud
from gureum.cli.output import CliError
from gureum.cli.processes import Identity, find, is_alive, read_pid_file, send, wait_gone
from gureum.cli.san_osd import supervise
from gureum.cli.supervisor import Child, Supervisor, backoff_s, describe_end, rotate
from gureum.san.ceph.cluster import GONE, Cluster, Disk, Record


def quiet(_text: str) -> None:
    pass


def wait_for(cloud: Cloud, role: str, but_not: Identity | None = None) -> Identity:
    """The role's process once it is ready and not `but_not`. pytest's own timeout bounds it."""
    path = cloud.run_dir / f"{role}.pid"
    while True:
        identity = read_pid_file(path)
        if identity is not None and identity != but_not and cloud.is_ready(role, identity):
            return identity


def test_backoff_doubles_up_to_its_bound() -> None:
    assert [backoff_s(failures) for failures in (1, 2, 3)] == [0.2, 0.4, 0.8]
    assert backoff_s(1000) == supervisor.BACKOFF_MAX_S


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exited with code 0"), (256 * 3, "exited with code 3"), (9, "was killed by SIGKILL")],
)
def test_describe_end(status: int, words: str) -> None:
    assert describe_end(status) == words


def test_rotate_keeps_one_older_part_and_the_writers_descriptor(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with open(log, "ab", buffering=0) as writer:
        writer.write(b"a" * 100)
        assert not rotate(str(log), 100)
        writer.write(b"b")
        assert rotate(str(log), 100)
        writer.write(b"c")
    assert log.read_bytes() == b"c"
    assert (tmp_path / "x.log.1").read_bytes() == b"a" * 100 + b"b"


def test_rotate_of_a_missing_log(tmp_path: Path) -> None:
    assert not rotate(str(tmp_path / "x.log"))


def test_what_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "log").mkdir()
    child = Child("manager", ["/nonexistent/program"], str(tmp_path))
    Supervisor(str(tmp_path), [child]).start_due()
    assert child.failures == 1
    assert child.start_next_at is not None
    assert child.start_next_at > 0
    assert "could not be started" in (tmp_path / "log" / "supervisor.log").read_text()


def test_goes_on_without_its_directory(tmp_path: Path) -> None:
    child = Child("manager", ["/nonexistent/program"], str(tmp_path / "gone"))
    subject = Supervisor(str(tmp_path / "gone"), [child])
    subject.start_due()
    subject.say("nobody reads this")
    assert child.failures == 1


def test_killed_role_is_started_again_and_the_log_says_why(cloud: Cloud) -> None:
    cloud.start(cloud.configure(port=free_port()), quiet)
    first = wait_for(cloud, "agent")
    assert send(first, signal.SIGKILL)
    second = wait_for(cloud, "agent", but_not=first)
    assert second.pid != first.pid
    processes = {process.name: process for process in cloud.processes()}
    assert processes["agent"].restarts == 1
    assert processes["agent"].last_end == "was killed by SIGKILL"
    assert processes["manager"].restarts == 0
    assert (
        f"agent (pid {first.pid}) was killed by SIGKILL; starting"
        in (cloud.log_dir / "supervisor.log").read_text()
    )


def test_a_second_supervisor_refuses(cloud: Cloud) -> None:
    cloud.start(cloud.configure(port=free_port()), quiet)
    command = little_process("gureum.cli.supervisor", cloud.state_dir, *cloud.roles)
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert "another supervisor" in second.stderr


def test_orphans_of_a_killed_supervisor_are_replaced(cloud: Cloud) -> None:
    config = cloud.configure(port=free_port())
    cloud.start(config, quiet)
    old = [wait_for(cloud, role) for role in ("manager", "agent")]
    supervising = cloud.supervisor()
    assert supervising is not None
    send(supervising, signal.SIGKILL)
    assert wait_gone(supervising, 10)
    assert cloud.start(config, quiet)
    assert all(wait_gone(identity, 0) for identity in old)
    assert all(process.is_ready for process in cloud.processes())


def test_usage(capfd: pytest.CaptureFixture[str]) -> None:
    assert supervisor.main([]) == 2
    assert "usage" in capfd.readouterr().err


def test_is_small() -> None:
    """The modules that would double its memory stay out."""
    code = "import gureum.cli.supervisor, sys; print(*sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(Path(supervisor.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    heavy = {
        "typing",
        "dataclasses",
        "pathlib",
        "json",
        "subprocess",
        "argparse",
        "logging",
        "msgspec",
        "typer",
    }
    assert not heavy & set(done.stdout.split())


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


FAKE_DAEMON = """#!/bin/sh
echo "{name} python: $PYTHONPATH"
trap 'exit 0' TERM
while :; do sleep 0.05; done
"""


@pytest.fixture
def storage(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The cloud with a storage cluster whose daemons are scripts."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for kind in ("mon", "mgr", "osd"):
        program = programs / f"ceph-{kind}"
        program.write_text(FAKE_DAEMON.format(name=kind))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    cluster = Cluster(cloud.state_dir)
    cluster.settings().save(cloud.state_dir)
    cluster.create(Record(fsid="1", mon_port=20000, osd_bytes=1))
    return cloud


def test_storage_daemons_outlive_the_cloud_and_are_taken_over(storage: Cloud) -> None:
    config = storage.configure(port=free_port())
    try:
        storage.start(config, quiet)
        first = storage.running_daemons()
        assert tuple(first) == storage.daemons == ("mon.a", "mgr.x", "osd.0", "osd.1", "osd.2")
        storage.stop_processes()
        assert storage.running_daemons() == first
        storage.start(config, quiet)
        assert storage.running_daemons() == first
        # Nobody is told of the end of what was taken over: it is seen all the same.
        send(first["osd.1"], signal.SIGKILL)
        while storage.running_daemons().get("osd.1", first["osd.1"]) == first["osd.1"]:
            pass
        storage.stop_processes()
    finally:
        storage.stop_processes()
        storage.stop_wardens()
        storage.stop_daemons()
    assert storage.running_daemons() == {}


def test_wardens_outlive_the_cloud_and_are_replaced(storage: Cloud) -> None:
    """With the cloud's next supervisor, which may be of another version."""
    config = storage.configure(port=free_port())
    assert storage.roles == ("manager", "agent", "warden")
    file = storage.run_dir / "warden.pid"
    try:
        storage.start(config, quiet)
        first = read_pid_file(file)
        assert first is not None
        storage.stop_processes()
        assert not storage.is_running()
        assert read_pid_file(file) == first
        storage.start(config, quiet)
        second = read_pid_file(file)
        assert second is not None
        assert second != first
        assert not is_alive(first)
        storage.stop_processes()
        storage.evacuate()
        assert not file.exists()
        assert not is_alive(second)
    finally:
        storage.stop_processes()
        storage.stop_wardens()
        storage.stop_daemons()


def test_storage_daemons_do_not_get_our_python_s_settings(storage: Cloud) -> None:
    try:
        storage.start(storage.configure(port=free_port()), quiet)
        log = storage.log_dir / "mgr.x.log"
        while not log.read_text():
            pass
        assert log.read_text() == "mgr python: \n"
    finally:
        storage.stop_processes()
        storage.stop_wardens()
        storage.stop_daemons()


def test_a_daemon_is_found_by_its_command(storage: Cloud) -> None:
    """As where its supervisor was killed before it wrote down what it had started."""
    try:
        storage.start(storage.configure(port=free_port()), quiet)
        wanted = storage.running_daemons()["osd.2"]
        (storage.run_dir / "osd.2.pid").unlink()
        words = Path(f"/proc/{wanted.pid}/cmdline").read_text().split("\0")[:-1]
        assert find(words) == wanted
        assert find([*words, "more"]) is None
        assert find(words[:-1]) is None
        assert send(wanted, signal.SIGKILL)
    finally:
        storage.stop_processes()
        storage.stop_wardens()
        storage.stop_daemons()


def test_other_daemons_while_it_runs(storage: Cloud) -> None:
    cluster = Cluster(storage.state_dir)
    try:
        storage.start(storage.configure(port=free_port()), quiet)
        first = storage.running_daemons()
        cluster.keep(Disk(number=3))
        cluster.keep(Disk(number=1, state=GONE))
        supervise(storage)
        assert not is_alive(first["osd.1"])
        while "osd.3" not in storage.running_daemons():
            pass
        after = storage.running_daemons()
        assert tuple(after) == ("mon.a", "mgr.x", "osd.0", "osd.2", "osd.3")
        assert {**first, **after} == {**after, "osd.1": first["osd.1"]}
        # The new one is looked after as the others are, and the old one is not any more.
        assert send(after["osd.3"], signal.SIGKILL)
        while storage.running_daemons().get("osd.3", after["osd.3"]) == after["osd.3"]:
            pass
        assert "osd.1" not in storage.running_daemons()
        assert "osd.1 is let go" in (storage.log_dir / "supervisor.log").read_text()
        supervise(storage)  # once more changes nothing
        assert {**after, **storage.running_daemons()}.keys() == after.keys()
    finally:
        storage.stop_processes()
        storage.stop_wardens()
        storage.stop_daemons()
    with pytest.raises(CliError, match="is not running"):
        supervise(storage)


def test_what_is_off_is_not_started_until_it_is_on(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "run").mkdir()
    child = Child("agent-1", ["true"], str(tmp_path))
    supervising = Supervisor(str(tmp_path), [child])
    off = Path(supervisor.off_file(str(tmp_path), "agent-1"))
    off.touch()
    supervising.start_due()
    assert child.identity is None
    assert child.start_next_at is not None
    assert child.start_next_at > 0, "it is looked again only later"
    off.unlink()
    child.start_next_at = 0.0
    supervising.start_due()
    assert child.identity is not None
    os.waitpid(child.identity.pid, 0)
