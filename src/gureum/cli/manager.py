"""`gureum manager ...`: machines with managers of a cloud, which take over from each other."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gureum.cli.commands import COMMANDS
from gureum.cli.host import call, seconds, show
from gureum.cli.options import MARKUP, AsJson, StateDir, attend, cloud_at, unseen
from gureum.cli.output import as_typed, note, show_json, table

app = typer.Typer(help=COMMANDS["manager"].help, no_args_is_help=True, rich_markup_mode=MARKUP)


@app.command(
    "list", help="List the machines with managers: which leads, which stand by, and which are silent."
)
def list_managers(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    found = call(state_dir, "describe_managers")
    if as_json:
        show(found)
        return
    rows = [
        (each["ManagerId"], each["AgentsAddress"], each["Endpoint"], state(each))
        for each in found["Managers"]
    ]
    print(table(("machine", "for agents", "API", ""), rows))


def state(manager: dict[str, Any]) -> str:
    """For people."""
    text: str = manager.get("State", "leading" if manager["Leads"] else "").replace("-", " ")
    if text != "silent":
        return f"{text}: a name of which nothing is known" if not manager["AgentsAddress"] else text
    seen = manager.get("LastSeen")
    return f"silent since {seen:%Y-%m-%d %H:%M:%S} UTC" if seen else "silent: never heard of"


@app.command("token", help="Make a token with which one other machine can have managers, once.")
def token(
    ttl: Annotated[str, typer.Option(help="For how long it can be used: 30m, 1h at most.")] = "1h",
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli.manager_token import make

    made = make(cloud_at(state_dir), seconds(ttl))
    if as_json:
        show(made)
        return
    print(made["Token"])
    note(f"whoever has it can have the whole cloud, until {made['Expires']:%Y-%m-%d %H:%M} UTC")
    note("on the other machine, as root:")
    note(f"  gureum manager join {made['Url']} --token -")


@app.command("join", help="Let this machine have managers of the cloud at URL.")
def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="ADDRESS:PORT, as `gureum manager token` says.")],
    secret: Annotated[
        str,
        typer.Option(
            "--token",
            help="From `gureum manager token`; - reads it from the standard input.",
            envvar="GUREUM_TOKEN",
            callback=unseen,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Its name among those with managers. Default: this machine's.", show_default=False),
    ] = None,
    agents_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS:PORT",
            help="Where agents reach it. Default: its address on the way to URL, and the same port.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of the API. Default: 4566.", show_default=False)
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="As of `gureum up`. Default: 127.0.0.1.", show_default=False)
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file.", show_default=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file.", show_default=False)] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="postgresql://USER@HOST/DATABASE",
            help="How this machine reaches the cloud's database. Default: as the others do.",
            show_default=False,
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once its manager runs.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli.cloud import require_root
    from gureum.cli.manager_join import Wanted
    from gureum.cli.manager_join import join as join_cloud

    require_root()
    cloud = cloud_at(state_dir)
    wanted = Wanted(
        name=name,
        agents=agents_address,
        port=port,
        host=host,
        tls_cert=str(tls_cert.absolute()) if tls_cert else None,
        tls_key=str(tls_key.absolute()) if tls_key else None,
        store=store,
    )
    joined = join_cloud(cloud, url, secret, wanted, note)
    if as_json:
        show_json(joined)
    else:
        print(f"{joined['machine']} has a manager of cloud {joined['cloud']}, at {joined['agents']}")
    if not detach:
        attend(cloud.state_dir)


@app.command("remove", help="Forget a machine that has no manager any more.")
def remove(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="As `gureum manager list` shows it.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also a name that was mistyped when it was revoked with --force.")
    ] = False,
    state_dir: StateDir = None,
) -> None:
    call(state_dir, "remove_manager", ManagerId=machine, Force=force)
    print(f"{machine} is forgotten. It still has the secrets of the cloud, unless its directory is removed")


@app.command(
    "revoke", help="Let no manager of a machine lead any more, for ever; and say what it still knows."
)
def revoke(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="As `gureum manager list` shows it.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also one that is not in the list: it was removed.")
    ] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli.manager_revoke import known

    answer = call(state_dir, "revoke_manager", ManagerId=machine, Force=force)
    if as_json:
        show({**answer.pop("Manager"), **answer})
        return
    print(f"{machine} is revoked: the store, hosts and the other managers refuse its managers from now on")
    if not answer["Manager"]["AgentsAddress"]:
        note(
            f"nothing is known here of a machine {machine}: it was removed, or the name was mistyped; then "
            f"gureum manager remove {machine} --force, and revoke the right one"
        )
    if away := answer.get("HostsAway"):
        note(
            f"{', '.join(away)} did not hear of it, and would believe {machine}: take that off the network "
            "before they are on again"
        )
    note(f"whoever has {machine} still knows the following, which has to be changed, in this order:")
    for number, line in enumerate(known(cloud_at(state_dir), machine, answer), 1):
        note(f"  {number}. {line}")


@app.command("access-key", help="Give the cloud another access key of its root, on this machine.")
def access_key(
    from_environment: Annotated[
        bool,
        typer.Option(
            "--from-environment",
            help="The one in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, made on another machine.",
        ),
    ] = False,
    state_dir: StateDir = None,
) -> None:
    from gureum.cli.manager_revoke import change_access_key, remains

    cloud = cloud_at(state_dir)
    made = change_access_key(cloud, from_environment=from_environment)
    print(as_typed(f"{made} is the access key of this machine, and no other; gureum env has its secret"))
    for line in remains(cloud, first=not from_environment):
        note(line)
