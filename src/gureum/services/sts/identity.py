"""Who is calling."""

from __future__ import annotations

from gureum.services.operation import Context, Input, Output, operation


@operation("sts", "GetCallerIdentity")
async def get_caller_identity(ctx: Context, input: Input) -> Output:
    return {"UserId": ctx.caller.user_id, "Account": ctx.caller.account, "Arn": ctx.caller.arn}
