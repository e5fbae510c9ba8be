"""`gureum instance autosize`: instances that get another type by what they use, by the Fleet API."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gureum.cli.host import call, seconds, show
from gureum.cli.instance import app
from gureum.cli.options import AsJson, StateDir, cloud_at
from gureum.cli.output import USAGE, CliError, note, table

PAGE_MAX = 100
MODES = ("off", "recommend", "automatic")


def _option(metavar: str, help: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, show_default=False)


@app.command(
    "autosize",
    short_help="Let instances grow and shrink by what they use; show what they use, and should be.",
    help="Let an instance grow and shrink while it runs, by what it uses of its vCPUs and memory; or show "
    "what each uses, which type it should have, and why. Without options nothing is changed.",
)
def autosize(
    instance: Annotated[
        str | None,
        typer.Argument(metavar="[INSTANCE]", help="An instance's id; none: all.", show_default=False),
    ] = None,
    mode: Annotated[
        str | None,
        _option(
            "MODE",
            "recommend (at first): it is said which type it should have. automatic: it gets that. off.",
            "--mode",
        ),
    ] = None,
    target: Annotated[
        int | None, _option("PERCENT", "How much it is to use at most; 60 if nothing was said.", "--target")
    ] = None,
    smallest: Annotated[str | None, _option("TYPE", "It is to be no smaller than this.", "--min")] = None,
    largest: Annotated[str | None, _option("TYPE", "It is to be no larger than this.", "--max")] = None,
    cool_down: Annotated[
        str | None,
        _option(
            "TIME", "It is left alone for so long after a change; 5m if nothing was said.", "--cool-down"
        ),
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    if mode not in (None, *MODES):
        raise CliError(f"{mode!r} is no mode", f"one of: {', '.join(MODES)}", exit_code=USAGE)
    wanted: dict[str, Any] = {
        "Mode": mode,
        "TargetPercent": target,
        "MinInstanceType": smallest,
        "MaxInstanceType": largest,
        "CoolDownSeconds": seconds(cool_down) if cool_down is not None else None,
    }
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if wanted and instance is None:
        raise CliError(
            "of which instance?", "name it: gureum instance autosize INSTANCE ...", exit_code=USAGE
        )
    if wanted:
        found = [call(state_dir, "set_instance_autosize", InstanceId=instance, **wanted)["InstanceAutosize"]]
    elif instance is not None:
        found = call(state_dir, "describe_instance_autosizes", InstanceIds=[instance])["InstanceAutosizes"]
    else:
        from gureum.cli import api

        pages = api.pages(cloud_at(state_dir), "fleet", "describe_instance_autosizes", MaxResults=PAGE_MAX)
        found = [each for page in pages for each in page["InstanceAutosizes"]]
    if as_json:
        show({"InstanceAutosizes": found})
        return
    header = ("instance", "type", "mode", "bounds", "target", "used lately", "used at most", "should be")
    print(table(header, map(row, found)))
    for each in found:
        for line in remarks(each):
            note(f"{each['InstanceId']}: {line}")


def row(each: dict[str, Any]) -> tuple[str, ...]:
    if each["Mode"] == "off":
        return each["InstanceId"], each["InstanceType"], "off", "-", "-", "-", "-", "-"
    after_stop = f"{each['StoppedInstanceType']} (after a stop)" if each.get("StoppedInstanceType") else ""
    wanted = [each.get("RecommendedInstanceType"), after_stop]
    return (
        each["InstanceId"],
        each["InstanceType"],
        each["Mode"],
        f"{each['MinInstanceType']} to {each['MaxInstanceType']}",
        f"{each['TargetPercent']} %",
        _used(each.get("Recent")),
        _used(each.get("Peak")),
        ", ".join(filter(None, wanted)) or "-",
    )


def _used(level: dict[str, float] | None) -> str:
    if level is None:
        return "-"
    memory = level.get("MemoryPercent")
    return f"cpu {level['CpuPercent']:.0f} %, memory {'?' if memory is None else f'{memory:.0f} %'}"


def remarks(each: dict[str, Any]) -> list[str]:
    """Why it should be what it should be, and why it isn't, for people."""
    lines = [each["Reason"]] if each.get("Reason") else []
    if held := each.get("HeldBecause"):
        lines.append(f"nothing is changed now: {held}")
    elif each.get("RecommendedInstanceType") and each["Mode"] != "automatic":
        lines.append("to let it become that by itself: --mode automatic")
    return lines
