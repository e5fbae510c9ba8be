"""`gureum net ...`: questions about the network of a cloud, by its Fleet API."""

from typing import Annotated, Any

import typer

from gureum.cli.commands import COMMANDS
from gureum.cli.options import MARKUP, AsJson, StateDir, cloud_at
from gureum.cli.output import FAILED, USAGE, CliError, show_json, table

PING = {"icmp": "ping (icmp)", "icmpv6": "ping (icmpv6)"}

app = typer.Typer(help=COMMANDS["net"].help, no_args_is_help=True, rich_markup_mode=MARKUP)


@app.callback()
def net() -> None:
    """A group also with a single command in it."""


@app.command(
    "trace",
    short_help="Tell hop by hop whether a packet would get there.",
    help="Tell hop by hop whether a packet would get there, and which rule decides. Sends nothing.",
    epilog="Exit code 0 if it would, 1 if not.",
)
def trace(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="An instance, a network interface, or an address outside."),
    ],
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DESTINATION[:PORT]",
            help="The same, or any address; with a port for tcp and udp: 10.0.1.5:443, [fd00::5]:443.",
        ),
    ],
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            "-p",
            help="tcp, udp, icmp, icmpv6 or a number. Default: tcp with a port, icmp without.",
            show_default=False,
        ),
    ] = None,
    source_port: Annotated[int, typer.Option(help="The port that answers go to.")] = 49152,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    from gureum.cli import api

    to, port = split_port(destination)
    if protocol is None:
        protocol = "tcp" if port is not None else "icmpv6" if ":" in to else "icmp"
    wanted: dict[str, Any] = {
        "Source": source,
        "Destination": to,
        "Protocol": protocol,
        "SourcePort": source_port,
    }
    if port is not None:
        wanted["Port"] = port
    answer = api.call(cloud_at(state_dir), "fleet", "trace_network_path", **wanted)
    answer.pop("ResponseMetadata", None)
    if as_json:
        show_json(answer)
    else:
        print(table(("", "at", "step", "why"), [row(hop) for hop in hops(answer)]))
        by = f"{protocol} {port}" if port is not None else PING.get(protocol, f"protocol {protocol}")
        print(f"{'reachable' if answer['Reachable'] else 'NOT reachable'} by {by}. {answer['Explanation']}")
    if not answer["Reachable"]:
        raise typer.Exit(FAILED)


def hops(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [*answer["Hops"], *answer["AnswerHops"]]


def row(hop: dict[str, Any]) -> tuple[str, str, str, str]:
    return ("ok" if hop["Passes"] else "STOP", hop["ComponentId"], hop["Step"], hop["Explanation"])


def split_port(text: str) -> tuple[str, int | None]:
    """ID, ADDRESS, ADDRESS:PORT or [IPV6]:PORT. Raises CliError."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if bracket else "?"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    if not port:
        return host, None
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise CliError(
            f"{text!r} is no destination",
            "for example: i-0123456789abcdef0:22, 10.0.1.5:443, [fd00::5]:443, 10.0.1.5",
            exit_code=USAGE,
        )
    return host, int(port)
