from __future__ import annotations

from ipaddress import IPv6Network

import msgspec
import pytest

from gureum.cli import ipv6
from gureum.cli.cloud import check_config
from gureum.cli.config import CloudConfig
from gureum.cli.output import CliError


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipv6, "own_addresses", lambda: ["2001:db8:9:1::5"])


@pytest.fixture
def config() -> CloudConfig:
    return CloudConfig(name="c", index=0, account_id="123456789012", access_key_id="a", secret_access_key="b")


def test_what_is_said_is_kept() -> None:
    assert ipv6.prefix_setting(None) is None
    assert ipv6.prefix_setting("off") == ""
    assert ipv6.prefix_setting("2001:DB8:7::/48") == "2001:db8:7::/48"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2001:db8:7::1/48", "host bits"),
        ("10.0.0.0/8", "--ipv6-prefix"),
        ("2001:db8:7::/57", "/16 to /56"),
        ("2000::/3", "/16 to /56"),
        ("fe80::/56", "has to be"),
        ("::/16", "has to be"),
        ("fd67:75:1::/48", "fd67:75::/32 has another use"),
        ("fd00::/16", "fd00:ec2::/32 has another use"),
        ("2001:db8:9::/48", "own address 2001:db8:9:1::5 is in it"),
    ],
)
def test_what_is_no_prefix_is_refused(text: str, why: str) -> None:
    with pytest.raises(CliError, match=why):
        ipv6.prefix_setting(text)


@pytest.mark.parametrize("length", [16, 32, 48])
def test_the_cloud_s_own_network_is_not_led_to_it(config: CloudConfig, length: int) -> None:
    """VPCs that were made before are hidden; two could have the same network."""
    own = IPv6Network(config.networks6[0])
    prefix = own.supernet(new_prefix=length) if length < 32 else next(own.subnets(new_prefix=length))
    with pytest.raises(CliError, match="hidden ones"):
        check_config(msgspec.structs.replace(config, ipv6_prefix=str(prefix)))
    check_config(msgspec.structs.replace(config, ipv6_prefix="2001:db8:7::/48"))


def test_a_cloud_has_its_own_network_and_the_one_that_is_led_to_it(config: CloudConfig) -> None:
    [own] = config.networks6
    assert own.startswith("fd")
    assert own.endswith("::/32")
    led = msgspec.structs.replace(config, ipv6_prefix="2001:db8:7::/48")
    assert led.networks6 == (own, "2001:db8:7::/48")
