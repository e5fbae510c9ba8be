"""What happened to hosts and instances, as it was recorded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gureum.resources import Event
from gureum.services.fleet import pages
from gureum.services.operation import Context, Input, Output, operation


@operation("fleet", "DescribeEvents")
async def describe_events(ctx: Context, input: Input) -> Output:
    """The oldest first. A page's token is given only where there is more now; who follows uses After."""
    page = pages.page(input, "DescribeEvents", "")
    host, instance = input.get("HostId"), input.get("InstanceId")
    after = page.after or input.get("After") or None
    found = [
        event
        for event in await ctx.tx.find(Event, after=after)
        if (not host or event.host == host) and (not instance or event.instance == instance)
    ]
    return {
        "Events": [_item(event) for event in found[: page.size]],
        "NextToken": page.token([event.id for event in found]),
    }


def _item(event: Event) -> dict[str, Any]:
    return {
        "EventId": event.id,
        "Time": datetime.fromtimestamp(event.time, UTC),
        "Name": event.name,
        "Severity": str(event.severity),
        "HostId": event.host or None,
        "InstanceId": event.instance or None,
        "Message": event.message,
    }
