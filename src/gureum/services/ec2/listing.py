"""What all Describe operations share: by id or by filters, page by page, described in bulk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from gureum.resources import Record
from gureum.services.ec2 import lookup, pagination
from gureum.services.ec2.filters import Filters, Query
from gureum.services.operation import Context, Input

R = TypeVar("R", bound=Record)

Item = dict[str, Any]
Describe = Callable[[Context, Sequence[R]], Awaitable[list[Item]]]

SCAN = 250
"""Records looked at before other calls get their turn, while looking for those that match."""


class Listing(msgspec.Struct, Generic[R], frozen=True, kw_only=True):
    """One Describe operation.

    ``ids`` is the input's member with ids, ``items`` the output's with the answer. ``describe`` makes one
    item of each record, in order; ``render`` likewise, in a form that need not be a dict. ``admits`` tells
    which records there is an item for. ``narrow`` may know, from the filters, ids among which all that match
    are. ``holders``: the index that has the accounts of the noun's ``holders``.
    """

    operation: str
    noun: lookup.Noun[R]
    ids: str
    items: str
    filters: Filters
    describe: Describe[R]
    render: Callable[[Context, Sequence[R]], Awaitable[list[Any]]] | None = None
    admits: Callable[[R], bool] | None = None
    narrow: Callable[[Context, Query], Awaitable[Sequence[str] | None]] | None = None
    holders: str = "account"
    page_max: int = 1000

    async def answer(
        self, ctx: Context, input: Input, *, scope: Mapping[str, str | Sequence[str]] | None = None
    ) -> dict[str, Any]:
        """``scope``: index conditions from other members than the filters."""
        chosen, token = await self.select(ctx, input, scope=scope)
        output: dict[str, Any] = {self.items: [item for _, item in chosen]}
        if token:
            output["NextToken"] = token
        return output

    async def select(
        self, ctx: Context, input: Input, *, scope: Mapping[str, str | Sequence[str]] | None = None
    ) -> tuple[list[tuple[R, Any]], str]:
        """The records and items of the page asked for, and the token of the next one."""
        page = pagination.page(input, self.operation, ids=self.ids, high=self.page_max)
        query = self.filters.parse(input.get("Filters"))
        if ids := input.get(self.ids):
            records = [r for r in await lookup.many(ctx, self.noun, ids) if self._chosen(r, query, scope)]
            return (await self._described(ctx, records, query, len(records)))[0], ""
        items: list[tuple[R, Any]] = []
        after = page.after
        ids = None if self.narrow is None else await self.narrow(ctx, query)
        while True:
            want = page.limit - len(items)
            # One more than wanted tells whether another page follows.
            size = SCAN if query.sifts or self.admits is not None else want + 1
            if ids is None:
                records = await self._scan(ctx, query, scope, after, size)
            else:
                records = await self._among(ctx, ids, query, scope, after)
                size = len(records) + 1
            visible = [record for record in records if self._passes(record, query)]
            chosen, last = await self._described(ctx, visible, query, want)
            items += chosen
            if last:
                return items, pagination.encode(last, self.operation)
            if len(records) < size:
                return items, ""
            after = records[-1].id
            await asyncio.sleep(0)

    async def _scan(
        self,
        ctx: Context,
        query: Query,
        scope: Mapping[str, str | Sequence[str]] | None,
        after: str,
        limit: int,
    ) -> list[R]:
        index: dict[str, str | Sequence[str]] = {**query.index}
        for name, values in (scope or {}).items():
            wanted = [values] if isinstance(values, str) else list(values)
            index[name] = [v for v in wanted if v in index[name]] if name in index else wanted
        if self.holders in self.noun.record.indexes and self.holders not in index:
            index[self.holders] = [ctx.caller.account, ""] if self.noun.shared else ctx.caller.account
        return await ctx.tx.find(self.noun.record, after=after or None, limit=limit, **index)

    async def _among(
        self,
        ctx: Context,
        ids: Sequence[str],
        query: Query,
        scope: Mapping[str, str | Sequence[str]] | None,
        after: str,
    ) -> list[R]:
        found = await ctx.tx.get_many(self.noun.record, [id for id in ids if id > after])
        account = ctx.caller.account
        return [r for r in found if self.noun.owned(r, account) and self._chosen(r, query, scope)]

    def _chosen(self, record: R, query: Query, scope: Mapping[str, str | Sequence[str]] | None) -> bool:
        return self._passes(record, query) and all(
            _has(record, name, values) for name, values in [*query.index.items(), *(scope or {}).items()]
        )

    def _passes(self, record: R, query: Query) -> bool:
        return (
            self.noun.visible(record)
            and (self.admits is None or self.admits(record))
            and query.admits(record)
        )

    async def _described(
        self, ctx: Context, records: Sequence[R], query: Query, want: int
    ) -> tuple[list[tuple[R, Any]], str]:
        """At most ``want`` records with items that match, and if more would, the id of the last one given."""
        if not records:
            return [], ""
        pairs: list[tuple[R, Any]]
        if query.needs_item:
            described = zip(records, await self.describe(ctx, records), strict=True)
            pairs = [(record, item) for record, item in described if query.matches(item)]
        else:
            items = await (self.render or self.describe)(ctx, records[:want])
            # What is beyond the page only tells that there is more.
            pairs = [*zip(records, items, strict=False), *((record, None) for record in records[want:])]
        return pairs[:want], pairs[want - 1][0].id if len(pairs) > want else ""


def _has(record: Record, name: str, values: str | Sequence[str]) -> bool:
    """Whether the record is found by this condition on an indexed field."""
    wanted = {values} if isinstance(values, str) else set(values)
    actual = getattr(record, name)
    if actual is None:
        return False
    return actual in wanted if isinstance(actual, str) else not wanted.isdisjoint(actual)
