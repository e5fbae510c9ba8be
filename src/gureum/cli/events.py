"""`gureum events`, and what is wanted of instances when something happens: `gureum instance ...`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from gureum.cli.host import call, show
from gureum.cli.instance import app
from gureum.cli.options import AsJson, StateDir
from gureum.cli.output import NOT_RUNNING, USAGE, CliError, note

LOOK_SECONDS = 1.0
SHOWN = 50
"""How many are shown if nothing else is said."""


def events(
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Only of this host.", show_default=False)
    ] = None,
    instance: Annotated[
        str | None, typer.Option(metavar="INSTANCE", help="Only of this instance.", show_default=False)
    ] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="How many, up to the newest.")] = SHOWN,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with those that come, until interrupted.")
    ] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    wanted = {name: value for name, value in (("HostId", host), ("InstanceId", instance)) if value}
    found = list(_after(state_dir, "", wanted))
    shown = found[len(found) - min(last, len(found)) :]
    if wanted and not found:
        lists = [f"gureum {kind} list" for kind, id in (("host", host), ("instance", instance)) if id]
        note(f"nothing is known to have happened to {' and '.join(wanted.values())}; see {', '.join(lists)}")
    if as_json and not follow:
        show({"Events": shown})
        return
    seen = found[-1]["EventId"] if found else ""
    while True:
        for event in shown:
            if as_json:
                show(event)
            else:
                print(line(event), flush=True)
        if not follow:
            return
        shown = _since(state_dir, seen, wanted)
        seen = shown[-1]["EventId"] if shown else seen


def _since(state_dir: Path | None, seen: str, wanted: dict[str, str]) -> list[dict[str, Any]]:
    """What came. Managers end and others follow: that is when somebody looks here, so it waits for them."""
    told = False
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            return list(_after(state_dir, seen, wanted))
        except CliError as error:
            if error.exit_code != NOT_RUNNING:
                raise
            if not told:
                note(f"{error}; this goes on when it does")
            told = True


def _after(state_dir: Path | None, seen: str, wanted: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Page by page, the oldest first."""
    more = {"After": seen} if seen else {}
    while True:
        page = call(state_dir, "describe_events", **wanted, **more)
        yield from page["Events"]
        if not page.get("NextToken"):
            return
        more = {"NextToken": page["NextToken"]}


def line(event: dict[str, Any]) -> str:
    severity = event["Severity"]
    mark = "" if severity == "info" else f"{severity}: "
    return f"{event['Time']:%Y-%m-%d %H:%M:%S} {mark}{event['Message']}"


@app.command(
    "recovery",
    help="Say what becomes of an instance whose host is lost, whose machine dies or whose guest hangs. "
    "Without options: show.",
)
def recovery(
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="An instance's id.")],
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="restart: it runs again, elsewhere if need be. stop: it is stopped. terminate: it is "
            "terminated. none: it waits for its host, and a guest that hangs is held.",
            show_default=False,
        ),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(min=0, max=100, help="0 to 100: those with more are started first.", show_default=False),
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    if policy not in (None, "restart", "stop", "terminate", "none"):
        raise CliError(f"{policy!r} is no policy", "one of: restart, stop, terminate, none", exit_code=USAGE)
    wanted: dict[str, Any] = {"InstanceId": instance}
    if policy is not None:
        wanted["Policy"] = policy
    if priority is not None:
        wanted["Priority"] = priority
    found = call(state_dir, "set_instance_recovery", **wanted)["Recovery"]
    if as_json:
        show(found)
    else:
        print(f"{found['InstanceId']}: {found['Policy']}, priority {found['Priority']}")
