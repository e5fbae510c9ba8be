"""The IPv6 prefix that is led to a cloud."""

from ipaddress import IPv6Address, IPv6Network

from gureum.cli.output import USAGE, CliError
from gureum.network.links import read_json
from gureum.network.names import OWN_RANGE6

PREFIX_MIN, PREFIX_MAX = 16, 56
"""The length of such a prefix; the longest is as long as what each VPC gets."""
OFF = "off"
_USABLE = (IPv6Network("2000::/3"), IPv6Network("fc00::/7"))
"""Global and unique local addresses."""
_TAKEN = (OWN_RANGE6, IPv6Network("fd00:ec2::/32"))
"""By our own devices, and by services that guests have."""


def prefix_setting(text: str | None) -> str | None:
    """What `up --ipv6-prefix PREFIX` means for the configuration. Raises CliError."""
    if text is None:
        return None
    if text == OFF:
        return ""
    try:
        prefix = IPv6Network(text)
    except ValueError as error:
        raise CliError(
            f"--ipv6-prefix {text}: {error}", "for example: --ipv6-prefix 2001:db8:7::/48", exit_code=USAGE
        ) from error
    is_usable = any(prefix.subnet_of(each) for each in _USABLE)
    if not PREFIX_MIN <= prefix.prefixlen <= PREFIX_MAX or not is_usable:
        raise CliError(
            f"--ipv6-prefix {text}: it has to be a /{PREFIX_MIN} to /{PREFIX_MAX}, of which each VPC gets a "
            f"/{PREFIX_MAX}",
            exit_code=USAGE,
        )
    for taken in _TAKEN:
        if prefix.overlaps(taken):
            raise CliError(f"--ipv6-prefix {text}: {taken} has another use", exit_code=USAGE)
    for address in own_addresses():
        if IPv6Address(address) in prefix:
            raise CliError(
                f"--ipv6-prefix {text}: this machine's own address {address} is in it",
                "choose a part of it that nothing else uses, and let your router lead that to this machine",
                exit_code=USAGE,
            )
    return str(prefix)


def own_addresses() -> list[str]:
    """Of this machine, but for those of its devices for guests."""
    return [
        str(each["local"])
        for device in read_json("address", "show")
        if not device["ifname"].startswith(("gu", "gb"))
        for each in device["addr_info"]
        if each["family"] == "inet6" and each["scope"] == "global"
    ]
