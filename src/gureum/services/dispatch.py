"""From a parsed, authenticated call to its operation, in a transaction.

Here is what every operation has in common: dry runs, client tokens, and what the store's errors mean to
a client.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

import msgspec

from gureum.control.keys import KeyStore
from gureum.env import Env
from gureum.errors import ApiError, CommitUnknown, Conflict, StoreAway, StoreError, StoreFull
from gureum.gateway.call import Call
from gureum.resources import ClientToken
from gureum.services.operation import (
    OPERATIONS,
    Caller,
    Cloud,
    Context,
    Hosts,
    Input,
    Keys,
    Later,
    Operation,
    Output,
)
from gureum.store.base import Reader, Store, Transaction

log = logging.getLogger(__name__)

TOKEN_SECONDS = 24 * 3600.0
TOKEN_CHARACTERS_MAX = 64
MISMATCHES = {"ebs": ("ConflictException", 409)}
"""By service, the code and status for another request with a known token, where they are not EC2's."""

_encoder = msgspec.msgpack.Encoder(order="deterministic")


class DryRun(ApiError):
    """Rolls the transaction of a dry run back; to the client it says that the call would have worked."""

    def __init__(self) -> None:
        super().__init__(
            "DryRunOperation", "Request would have succeeded, but DryRun flag is set.", status=412
        )


class Dispatcher:
    """Runs operations. Call it with a ``Call``; ``implemented`` tells which there are."""

    def __init__(self, env: Env, cloud: Cloud, store: Store, hosts: Hosts, keys: Keys | None = None) -> None:
        """Without ``keys`` nothing that is encrypted is secret: for clouds in memory."""
        self.env = env
        self.cloud = cloud
        self.store = store
        self.hosts = hosts
        self.keys = keys or KeyStore.unsafe()

    def implemented(self, service: str, operation: str) -> bool:
        return (service, operation) in OPERATIONS

    async def __call__(self, call: Call) -> Output:
        operation = OPERATIONS[call.service, call.operation]
        try:
            if operation.write:
                return await self.store.transact(
                    lambda tx: self._write(tx, operation, call), frees=operation.frees
                )
            async with self.store.read() as reader:
                output = await operation.handler(self._context(call, reader), call.input)
            if call.input.get("DryRun"):
                raise DryRun
            return await output.rest() if isinstance(output, Later) else output
        except StoreFull as error:
            log.error("%s %s: %s", call.service, call.operation, error)
            raise ApiError(
                "Unavailable",
                "The cloud's state disk is full; nothing was changed. Make room and try again: instances can "
                "still be terminated, volumes and snapshots be deleted.",
                status=503,
            ) from error
        except StoreAway as error:
            log.error("%s %s: %s", call.service, call.operation, error)
            raise ApiError(
                "Unavailable",
                "The cloud's state is out of reach; nothing was changed. Try again.",
                status=503,
            ) from error
        except CommitUnknown as error:
            log.error("%s %s: %s", call.service, call.operation, error)
            raise ApiError(
                "InternalError",
                "The cloud's state went out of reach before it said whether this was done. Look before you "
                "try again, or try again with the same client token.",
                status=500,
            ) from error
        except Conflict as error:
            raise ApiError(
                "Unavailable", "Too many changes at once to the same resource. Try again.", status=503
            ) from error
        except StoreError as error:
            log.exception("%s %s", call.service, call.operation)
            raise ApiError(
                "InternalError", f"The state store failed; nothing was changed: {error}", status=500
            ) from error

    def _context(self, call: Call, tx: Reader) -> Context:
        caller = call.caller
        assert isinstance(caller, Caller)
        return Context(
            env=self.env,
            cloud=self.cloud,
            caller=caller,
            request_id=call.request_id,
            tx=tx,  # type: ignore[arg-type]  # operations that only read get a Reader
            hosts=self.hosts,
            keys=self.keys,
        )

    async def _write(self, tx: Transaction, operation: Operation, call: Call) -> Output:
        token = call.input.get("ClientToken")
        if not token:
            return await self._run(tx, operation, call)
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise ApiError(
                "InvalidParameterValue",
                f"The client token is longer than {TOKEN_CHARACTERS_MAX} ASCII characters.",
            )
        caller = call.caller
        assert isinstance(caller, Caller)
        id = f"{caller.account}/{operation.service}/{operation.name}/{token}"
        request = _digest(call.input)
        known = await tx.get(ClientToken, id)
        if known is not None and known.expires > self.env.now():
            if known.request != request:
                code, status = MISMATCHES.get(operation.service, ("IdempotentParameterMismatch", 400))
                raise ApiError(
                    code, "The client token was used before with other parameters. Use a new token.", status
                )
            answer: Output = msgspec.msgpack.decode(known.output)
            return answer
        output = await self._run(tx, operation, call)
        await tx.put(
            ClientToken(
                id=id,
                version=known.version if known else 0,
                account=caller.account,
                request=request,
                output=_encoder.encode(output),
                expires=self.env.now() + TOKEN_SECONDS,
            )
        )
        return output

    async def _run(self, tx: Transaction, operation: Operation, call: Call) -> Output:
        output = await operation.handler(self._context(call, tx), call.input)
        # A transaction may be run again, and commits before it is answered.
        assert not isinstance(output, Later), operation.name
        if call.input.get("DryRun"):
            raise DryRun
        return output


def _digest(input: Input) -> str:
    """A hash of everything that was asked, but for the token."""
    asked: Mapping[str, object] = {name: value for name, value in input.items() if name != "ClientToken"}
    return hashlib.sha256(_encoder.encode(asked)).hexdigest()
