"""The IPv6 prefix that is led to a cloud."""

from ipaddress import IPv6Address, IPv6Network

from gureum.cli.output import USAGE, CliError
from gureum.network.links import read_json

PREFIX_MIN, PREFIX_MAX = 16, 56
"""The length of such a prefix; the longest is as long as what each VPC gets."""
OFF = "off"


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
    if not PREFIX_MIN <= prefix.prefixlen <= PREFIX_MAX or prefix.is_link_local or prefix.is_multicast:
        raise CliError(
            f"--ipv6-prefix {text}: it has to be a /{PREFIX_MIN} to /{PREFIX_MAX}, of which each VPC gets a "
            f"/{PREFIX_MAX}",
            exit_code=USAGE,
        )
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
