"""EC2's names for addresses."""

from __future__ import annotations


def private_name(address: str, domain: str) -> str:
    """``ip-172-31-0-4.ec2.internal`` for 172.31.0.4; "" for no address."""
    return f"ip-{address.replace('.', '-')}.{domain}" if address else ""


def private_domain(region: str) -> str:
    """Where private names live: us-east-1 is the exception, as in EC2."""
    return "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"


def public_name(address: str, region: str) -> str:
    """``ec2-198-18-0-7.compute-1.amazonaws.com`` in us-east-1, with ``.REGION.compute.`` elsewhere."""
    if not address:
        return ""
    return f"ec2-{address.replace('.', '-')}.{public_domain(private_domain(region))}"


def public_domain(private: str) -> str:
    """Where the public names live of a region whose private names live in ``private``."""
    zone = "compute-1" if private == "ec2.internal" else private.removesuffix(".internal")
    return f"{zone}.amazonaws.com"
