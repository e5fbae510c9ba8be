"""GetConsoleOutput."""

from __future__ import annotations

import base64

from gureum.errors import ApiError, TransportError
from gureum.services.ec2 import limits, lookup
from gureum.services.operation import Context, Input, Output, operation


@operation("ec2", "GetConsoleOutput")
async def get_console_output(ctx: Context, input: Input) -> Output:
    """The last 64 KiB of the serial console, in base64. ``Latest`` or not: there is no older copy to show.

    An instance that has not been on a host has no output.
    """
    instance = await lookup.one(ctx, lookup.INSTANCE, input["InstanceId"])
    output = b""
    if instance.host is not None:
        try:
            output = await ctx.hosts.console(instance.host, instance.id, limits.CONSOLE_BYTES_MAX)
        except TransportError as error:
            raise ApiError(
                "Unavailable", f"The host of instance '{instance.id}' does not answer: {error}", 503
            ) from error
    return {
        "InstanceId": instance.id,
        "Timestamp": ctx.env.utcnow(),
        "Output": base64.b64encode(output).decode() if output else None,
    }
