import socket
import subprocess
from typing import Any

import pytest

from gureum.cli import join
from gureum.cli.cloud import Cloud, check_config, check_port
from gureum.cli.config import JOINED, JoinedConfig
from gureum.cli.output import USAGE, CliError
from gureum.network import uplink
from gureum.transport import tls, token

TOKEN = token.write("ab" * 32, b"x" * 32)


def wanted(cloud: Cloud, url: str = "127.0.0.1:1", secret: str = TOKEN, **more: Any) -> None:
    settings: dict[str, Any] = {"name": None, "uplink": "eth0", "zone": None, **more}
    join.join(cloud, url, secret, progress=lambda _: None, **settings)


def joined(cloud: Cloud, **more: Any) -> JoinedConfig:
    config = JoinedConfig(
        cloud="c", host="second", zone="z", public_cidr="198.18.0.0/22", index=0, manager="192.0.2.1:4567",
        uplink="eth0", expires=2e9, renew_at=1e9, **more,
    )  # fmt: skip
    cloud.state_dir.mkdir()
    config.save(cloud.state_dir)
    return config


def test_where_agents_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "default", lambda: ("eth7", "192.0.2.9"))
    monkeypatch.setattr(uplink, "with_address", lambda address: "eth3")
    assert join.agents_settings(None) == {}
    assert join.agents_settings("off") == {"agents": "", "agents_url": "", "uplink": ""}
    assert join.agents_settings("0.0.0.0:4600") == {
        "agents": "0.0.0.0:4600",
        "agents_url": "https://192.0.2.9:4600",
        "uplink": "eth7",
    }
    assert join.agents_settings("192.0.2.3") == {
        "agents": "192.0.2.3:4567",
        "agents_url": "https://192.0.2.3:4567",
        "uplink": "eth3",
    }


@pytest.mark.parametrize("text", ["", ":", "http://192.0.2.3:1", "192.0.2.3:x", "192.0.2.3:99999", "a/b"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(CliError) as caught:
        join.agents_settings(text)
    assert caught.value.exit_code == USAGE


def test_an_address_of_another_machine() -> None:
    with pytest.raises(CliError, match="does not have the address"):
        join.agents_settings("203.0.113.7:4567")


def test_several_hosts_of_a_machine_are_out_of_reach_for_others(cloud: Cloud) -> None:
    config = cloud.configure(hosts=2)
    check_config(config)
    with pytest.raises(CliError, match="have a network of their own"):
        cloud.configure(agents="192.0.2.3:4567")


def test_a_port_that_is_taken(cloud: Cloud) -> None:
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        config = cloud.configure(port=port, agents=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(CliError, match="cannot be used") as caught:
            check_port(config)
        assert "--agents-address" in caught.value.next_step


def test_a_host_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, expected in {"Node_7.example": "node-7", "...": "machine", "x" * 80: "x" * 63}.items():
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        assert join.host_name() == expected


def test_what_is_no_token(cloud: Cloud) -> None:
    with pytest.raises(CliError, match="no token") as caught:
        wanted(cloud, secret="gureum1.x")
    assert caught.value.exit_code == USAGE
    assert not cloud.state_dir.exists()


def test_not_where_a_cloud_is(cloud: Cloud) -> None:
    cloud.configure()
    with pytest.raises(CliError, match="a cloud of its own"):
        wanted(cloud)


def test_not_by_the_loopback_device(cloud: Cloud) -> None:
    with pytest.raises(CliError, match="loopback") as caught:
        wanted(cloud, uplink=None)
    assert "--uplink" in caught.value.next_step


def test_nobody_there(cloud: Cloud) -> None:
    with pytest.raises(CliError, match="joining failed: no manager at"):
        wanted(cloud)
    assert cloud.joined() is None


def test_a_host_joins_again_as_what_it_was(cloud: Cloud) -> None:
    joined(cloud)
    authority_file(cloud, "other")
    with pytest.raises(CliError, match="holds what host second of cloud c has"):
        wanted(cloud)
    ours = tls.fingerprint((cloud.state_dir / "tls" / tls.AUTHORITY).read_bytes())
    again = token.write(ours, b"x" * 32)
    with pytest.raises(CliError, match="holds what host second of cloud c has"):
        wanted(cloud, secret=again, name="third")
    with pytest.raises(CliError, match="no manager at"):
        wanted(cloud, secret=again)


def authority_file(cloud: Cloud, name: str) -> None:
    from gureum.transport import authority

    authority.ensure(cloud.state_dir / "tls", name, 1.7e9)


def test_a_joined_machine_has_an_agent_and_no_manager(cloud: Cloud) -> None:
    config = joined(cloud)
    assert cloud.joined() == config
    assert cloud.roles == ("agent",)
    cloud.require()
    (cloud.state_dir / JOINED).write_text("{")
    with pytest.raises(CliError, match="is damaged"):
        cloud.joined()


def test_its_agent_starts_and_stops(cloud: Cloud) -> None:
    joined(cloud)
    for name in ("run", "log"):
        (cloud.state_dir / name).mkdir()
    assert cloud.start(None, lambda _: None)
    assert [process.name for process in cloud.processes() if process.is_ready] == ["supervisor", "agent"]
    assert not cloud.start(None, lambda _: None)
    assert cloud.stop_processes() == []
    cloud.evacuate()
    assert (cloud.state_dir / "evacuated").exists()


def test_the_authority_is_kept(cloud: Cloud) -> None:
    config = cloud.configure()
    join.ensure_authority(cloud, config)
    first = {path.name: path.read_bytes() for path in (cloud.state_dir / "authority").iterdir()}
    join.ensure_authority(cloud, config)
    assert {path.name: path.read_bytes() for path in (cloud.state_dir / "authority").iterdir()} == first


def test_nothing_of_it_is_loaded_by_who_does_not_need_it() -> None:
    """Certificates need much memory."""
    import sys

    from gureum.cli.children import child_environment

    code = (
        "import sys, gureum.control.__main__, gureum.agent.__main__, gureum.cli.join;"
        "sys.exit('cryptography' in sys.modules or 'botocore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=child_environment(), check=False)
    assert done.returncode == 0
