"""`gureum status`: the processes of a cloud, or of a host of another machine's cloud, and what it runs."""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from gureum.agent.warden import notes
from gureum.cli import api, losses, store
from gureum.cli.cloud import Cloud, Process
from gureum.cli.config import JoinedConfig
from gureum.cli.output import NOT_RUNNING, CliError, as_typed, show_json, table


def run(cloud: Cloud, *, as_json: bool) -> int:
    """Prints it. Returns the exit code."""
    joined = cloud.joined()
    if joined is None or cloud.exists:
        return show_cloud(cloud, as_json=as_json)
    return show_host(cloud, joined, as_json=as_json)


def show_cloud(cloud: Cloud, *, as_json: bool) -> int:
    config = cloud.config()
    processes = cloud.processes()
    leaders = [role for role in config.manager_roles if cloud.leads(role)]
    # One on another machine may lead.
    answers = bool(leaders) or any(each.is_ready for each in processes if each.name.startswith("manager"))
    trouble = ""
    counts: dict[str, int] | None = None
    failed: dict[str, str] = {}
    down: dict[str, str] = {}
    survival: list[str] = []
    if answers:
        try:
            counts = api.instances_by_state(cloud)
            failed = api.failed(cloud)
            down = api.hosts_down(cloud)
            survival = losses.lines(api.survival(cloud))
        except CliError as error:
            trouble = error.message
    guests = cloud.guests()
    database = store.look(config)
    if as_json:
        show_json(
            {
                "name": config.name,
                "state_dir": str(cloud.state_dir),
                "endpoint": config.endpoint,
                "region": config.region,
                "account_id": config.account_id,
                "hosts": config.hosts,
                "agents_url": config.agents_url,
                "store": msgspec.to_builtins(database),
                "processes": msgspec.to_builtins(processes),
                "instances": counts,
                "failed": failed,
                "hosts_down": down,
                "survival": survival,
                "guests_running": guests,
                "guests_held": held(cloud),
                "trouble": trouble,
            }
        )
    else:
        print(f"cloud {config.name}  {config.endpoint}  {config.region}  account {config.account_id}")
        print(f"state in {cloud.state_dir}")
        if database is not None:
            print(f"store: {database.trouble or database.place}")
            print(f"leads: {database.leader or 'nobody'}, epoch {database.epoch}")
        print(f"\n{process_table(processes, leaders=leaders)}")
        said = ", ".join(f"{count} {state}" for state, count in (counts or {}).items()) or "none"
        print(f"\ninstances: {said if counts is not None else trouble or 'unknown, the cloud does not run'}")
        print(f"guest processes on this machine: {len(guests)}")
        print_held(cloud)
        for host, things in down.items():
            print(f"host {host} is down{f', and with it {things}' if things else ''}")
        for line in survival:
            print(line)
        for id, reason in failed.items():
            print(f"failed: {id}: {reason or 'no reason is known'}")
    return 0 if answers and not trouble else NOT_RUNNING


def show_host(cloud: Cloud, joined: JoinedConfig, *, as_json: bool) -> int:
    from gureum.agent.certificate import refusal

    processes = cloud.processes()
    guests = cloud.guests()
    runs = all(process.is_ready for process in processes)
    refused = refusal(cloud.state_dir)
    expires = datetime.fromtimestamp(joined.expires, UTC)
    if as_json:
        show_json(
            {
                "cloud": joined.cloud,
                "host": joined.host,
                "zone": joined.zone,
                "manager": joined.manager,
                "uplink": joined.uplink,
                "state_dir": str(cloud.state_dir),
                "certificate_expires": expires.isoformat(),
                "processes": msgspec.to_builtins(processes),
                "guests_running": guests,
                "guests_held": held(cloud),
                "refused": refused,
            }
        )
    else:
        print(f"host {joined.host} of cloud {joined.cloud}  {joined.zone}  manager {joined.manager}")
        print(f"state in {cloud.state_dir}  certificate until {expires:%Y-%m-%d %H:%M} UTC\n")
        print(process_table(processes, refused=bool(refused)))
        if refused:
            print(f"\nthe manager refuses this host: {refused}")
            print(as_typed("have it join again with a new token, or end it with `gureum down`"))
        print(f"\nguest processes on this machine: {len(guests)}")
        print_held(cloud)
    return 0 if runs and not refused else NOT_RUNNING


def held(cloud: Cloud) -> dict[str, str]:
    """By the directory of each host here whose warden lets no machine run, why."""
    found = {}
    for run in cloud.host_run_dirs():
        said = notes.Note(notes.directory(str(run.parent)), notes.STATE).read()
        if said.get("held"):
            found[str(run.parent)] = str(said.get("why", ""))
    return found


def print_held(cloud: Cloud) -> None:
    for directory, why in held(cloud).items():
        print(f"no machine runs on the host in {directory}: {why}")


def process_table(processes: Sequence[Process], *, refused: bool = False, leaders: Sequence[str] = ()) -> str:
    """``refused``: the agent is ready, and of no use. ``leaders``: the managers that do not stand by."""
    rows = [
        (
            process.name,
            process.pid or "-",
            f"{process.rss_kib / 1024:.1f} MiB" if process.rss_kib else "-",
            "standing by"
            if process.is_ready and process.name.startswith("manager") and process.name not in leaders
            else _state(process, refused and process.name == "agent"),
            f"{process.restarts} restarts, last: {process.last_end}" if process.restarts else "",
        )
        for process in processes
    ]
    return table(("process", "pid", "rss", "state", ""), rows)


def _state(process: Process, refused: bool) -> str:
    if not process.pid:
        return "off" if process.is_off else "not running"
    return "refused" if refused else "ready" if process.is_ready else "starting"
