import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gureum.cli import cloud as cloud_module
from gureum.cli.cloud import Cloud, check_config, check_port, last_lines, require_root
from gureum.cli.output import MISSING, NOT_RUNNING, USAGE, CliError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_start_and_stop(cloud: Cloud) -> None:
    said: list[str] = []
    config = cloud.configure(port=free_port())
    assert cloud.start(config, said.append)
    assert {line.split()[0] for line in said} == {"manager", "agent"}
    assert all(process.is_ready and process.pid for process in cloud.processes())
    assert cloud.is_running()
    assert not cloud.start(config, said.append)
    assert cloud.stop_processes() == []
    assert not cloud.is_running()
    assert not list(cloud.run_dir.glob("*.pid"))
    assert not list(cloud.run_dir.glob("*.ready"))


def test_several_hosts(cloud: Cloud) -> None:
    said: list[str] = []
    config = cloud.configure(port=free_port(), hosts=3)
    assert cloud.start(config, said.append)
    agents = ["agent-0", "agent-1", "agent-2"]
    assert [process.name for process in cloud.processes()] == ["supervisor", "manager", *agents]
    assert all(process.is_ready for process in cloud.processes())
    for name in agents:
        assert f"{name} says hello" not in (cloud.log_dir / "agent-0.log").read_text() or name == "agent-0"
        assert f"{name} says hello" in (cloud.log_dir / f"{name}.log").read_text()
    assert cloud.stop_processes() == []
    assert not cloud.is_running()
    assert not list(cloud.run_dir.glob("*.ready"))


def test_agents_of_hosts_that_are_no_more_are_stopped_too(cloud: Cloud) -> None:
    cloud.start(cloud.configure(port=free_port(), hosts=2), lambda _: None)
    cloud.configure(hosts=1)
    assert cloud.is_running()
    cloud.stop_processes()
    assert not list(cloud.run_dir.glob("agent*.pid"))


def test_a_supervisor_that_lacks_some_is_replaced(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a version without wardens."""
    config = cloud.configure(port=free_port())
    assert cloud.start(config, lambda _: None)
    before = cloud.supervisor()
    monkeypatch.setattr(Cloud, "_host_roles", lambda _self, agents: (*agents, "warden"))
    said: list[str] = []
    assert cloud.start(config, said.append)
    assert "is replaced" in said[0]
    assert before not in (None, cloud.supervisor())
    assert [process.name for process in cloud.processes()] == ["supervisor", "manager", "agent", "warden"]
    assert all(process.is_ready for process in cloud.processes())
    assert not cloud.start(config, said.append)


def test_each_host_is_evacuated(cloud: Cloud) -> None:
    cloud.configure(hosts=2)
    (cloud.state_dir / "evacuate-fails").touch()
    with pytest.raises(CliError, match="not all guests"):
        cloud.evacuate()
    assert {path.name for path in cloud.state_dir.glob("evacuated*")} == {"evacuated-0", "evacuated-1"}


def test_settings_outlive_the_processes(cloud: Cloud) -> None:
    first = cloud.configure(port=5000)
    assert cloud.configure() == first
    assert cloud.configure(host="localhost").port == 5000


def test_what_cannot_start_is_shown_with_its_log_and_stopped(cloud: Cloud) -> None:
    config = cloud.configure(port=free_port())
    (cloud.state_dir / "crash-agent").touch()
    with pytest.raises(CliError) as caught:
        cloud.start(config, lambda _: None)
    assert "agent ends as soon as it starts (it exited with code 1)" in caught.value.message
    assert "agent cannot go on" in caught.value.detail
    assert not cloud.is_running()


def test_ready_file_of_another_process_does_not_count(cloud: Cloud) -> None:
    cloud.start(cloud.configure(port=free_port()), lambda _: None)
    (cloud.run_dir / "manager.ready").write_text('{"pid": 1}')
    assert not next(process for process in cloud.processes() if process.name == "manager").is_ready


def test_evacuation(cloud: Cloud) -> None:
    cloud.configure()
    cloud.evacuate()
    assert (cloud.state_dir / "evacuated").exists()
    (cloud.state_dir / "evacuate-fails").touch()
    with pytest.raises(CliError, match="not all guests"):
        cloud.evacuate()


def test_no_cloud(tmp_path: Path) -> None:
    with pytest.raises(CliError) as caught:
        Cloud(tmp_path / "x").config()
    assert caught.value.exit_code == NOT_RUNNING


def test_guests_are_found_by_their_command_line(cloud: Cloud, tmp_path: Path) -> None:
    cloud.configure()
    assert cloud.guests() == []
    program = tmp_path / "qemu-system-x86_64"
    # An id of its own: other guests of this machine, from other tests too, must not be taken for it.
    machine = f"i-{secrets.token_hex(9)[:17]}"
    code = "import sys; print('here', flush=True); sys.stdin.read()"
    arguments = [str(program), "-c", code, f"guest={machine},debug-threads=on"]
    (cloud.run_dir / "machines" / machine).mkdir(parents=True)
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, executable=sys.executable, stdin=pipe, stdout=pipe) as guest:
        assert guest.stdout is not None
        guest.stdout.readline()
        assert cloud.guests() == [machine]
        assert Cloud(tmp_path / "other").guests() == []
        guest.communicate(b"")
    assert cloud.guests() == []


def test_other_addresses_need_tls(cloud: Cloud, tmp_path: Path) -> None:
    with pytest.raises(CliError, match="without TLS") as caught:
        cloud.configure(host="0.0.0.0")
    assert caught.value.exit_code == USAGE
    assert not cloud.exists
    for name in ("cert", "key"):
        (tmp_path / name).touch()
    assert cloud.configure(
        host="0.0.0.0", tls_cert=str(tmp_path / "cert"), tls_key=str(tmp_path / "key")
    ).endpoint.startswith("https")


def test_tls_files_belong_together_and_must_be_there(cloud: Cloud) -> None:
    config = cloud.configure()
    import msgspec

    with pytest.raises(CliError, match="belong together"):
        check_config(msgspec.structs.replace(config, tls_cert="/x"))
    with pytest.raises(CliError, match="cannot be read"):
        check_config(msgspec.structs.replace(config, tls_cert="/nonexistent", tls_key="/nonexistent"))


def test_port_in_use(cloud: Cloud) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        config = cloud.configure(port=holder.getsockname()[1])
        with pytest.raises(CliError, match="Address already in use") as caught:
            cloud.start(config, lambda _: None)
    assert "--port" in caught.value.next_step
    check_port(config)


def test_state_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(CliError, match="cannot be used"):
        Cloud(tmp_path / "x").configure()


def test_root_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_module.os, "geteuid", lambda: 1000)
    with pytest.raises(CliError) as caught:
        require_root()
    assert caught.value.exit_code == MISSING


def test_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a\nb\nc\n")
    assert last_lines(log, 2) == ["b", "c"]
    assert last_lines(log, 0) == []
    assert last_lines(tmp_path / "none", 2) == []
    assert last_lines(log, 9, bytes_max=3) == ["", "c"]
