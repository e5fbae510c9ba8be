"""What DescribeSurvival says, in words."""

from __future__ import annotations

from typing import Any


def hosts(count: int) -> str:
    return "a host" if count == 1 else f"{count} hosts"


def line(domain: dict[str, Any], survive: int) -> str:
    """Of a zone."""
    where = f"zone {domain['Zone']}" if "Zone" in domain else "all zones"
    can, wanted = domain["Survivable"], max(1, survive)
    if can >= wanted:
        more = f" ({can} at once)" if can > wanted else ""
        return f"{where}: the loss of {hosts(wanted)} would be survived{more}"
    kept = ", as it is to be" if survive else ""
    return (
        f"{where}: the loss of {hosts(wanted)} would not be survived{kept}: {domain['Message'].rstrip('.')}"
    )


def lines(found: dict[str, Any]) -> list[str]:
    """Of what DescribeSurvival says."""
    return [line(domain, found["Survive"]) for domain in found["Domains"]]
