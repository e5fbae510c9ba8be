"""The CLI as a client of the public API. botocore is imported here and only when a command calls the API."""

import re
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from gureum.cli import leader
from gureum.cli.cloud import Cloud
from gureum.cli.config import naming
from gureum.cli.output import NOT_RUNNING, CliError
from gureum.gateway.catalogue import OWN_MODELS

COMMANDS = {
    "CancelInstanceMigration": "gureum instance cancel-migration",
    "CancelUpgrade": "gureum host upgrade --cancel",
    "CreateHostToken": "gureum host token",
    "DescribeHosts": "gureum host list",
    "DescribeInstances": "gureum instance list",
    "DescribeManagers": "gureum manager list",
    "DescribePools": "gureum san status",
    "DrainHost": "gureum host drain",
    "FenceHost": "gureum host fence",
    "ModifyHostPower": "gureum host power",
    "MoveVolume": "gureum volume move",
    "RemoveHost": "gureum host remove",
}
"""By operations that answers of the API name, which are for its other clients, too."""
_NAMED = re.compile(rf"\b({'|'.join(COMMANDS)})\b( of ec2)?")

PAGE_SIZE = 1000
PAGES_MAX = 1000
FAILED_MAX = 20
"""Volumes and snapshots that failed, of which the reasons are asked for."""

SHOWN_MAX = 8
"""Of what is on a host that is down."""


def client(cloud: Cloud, service: str, *, read_timeout_s: float = 10.0) -> Any:
    """A botocore client with the cloud's root credentials."""
    from botocore.config import Config

    config = cloud.config()
    api = leader.api(cloud, config)
    made = _session().create_client(
        service,
        region_name=config.region,
        endpoint_url=api.url,
        aws_access_key_id=config.access_key_id,
        aws_secret_access_key=config.secret_access_key,
        verify=api.trusted,
        config=Config(connect_timeout=2, read_timeout=read_timeout_s, retries={"total_max_attempts": 1}),
    )
    if api.trusted:
        made.meta.events.register("before-send", _verifying(api.url, api.trusted, read_timeout_s))
    return made


def _verifying(url: str, trusted: str, read_timeout_s: float) -> Callable[..., Any]:
    """Sends requests where certificates in the file ``trusted`` are believed themselves, too, and not only
    what an authority that is in it has signed. The rest is as ever: the name, the time, the key.
    """
    from botocore.httpsession import URLLib3Session
    from botocore.utils import get_environ_proxies

    class Session(URLLib3Session):  # type: ignore[misc]  # botocore has no types
        def _get_ssl_context(self) -> ssl.SSLContext:
            context: ssl.SSLContext = super()._get_ssl_context()
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            return context

    session = Session(verify=trusted, proxies=get_environ_proxies(url), timeout=(2, read_timeout_s))
    return lambda request, **_: session.send(request)


@cache
def _session() -> Any:
    """One for all clients: it keeps what it has read of services, which takes a tenth of a second each."""
    import botocore.session

    session = botocore.session.Session()
    session.get_component("data_loader").search_paths.append(str(OWN_MODELS))
    return session


def call(cloud: Cloud, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
    """One call. Raises CliError with what the API or the connection said."""
    return _send(client(cloud, service), operation, parameters, cloud)


def long_call(
    cloud: Cloud, service: str, operation: str, seconds: float, /, **parameters: Any
) -> dict[str, Any]:
    """As ``call``, of what may take so long."""
    return _send(client(cloud, service, read_timeout_s=seconds), operation, parameters, cloud)


def _send(service_client: Any, operation: str, parameters: dict[str, Any], cloud: Cloud) -> dict[str, Any]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        response: dict[str, Any] = getattr(service_client, operation)(**parameters)
    except ClientError as error:
        said = error.response["Error"]
        raise CliError(f"{said['Code']}: {with_commands(said['Message'])}") from error
    except BotoCoreError as error:
        which = naming(cloud.state_dir)
        raise CliError(
            f"the cloud in {cloud.state_dir} does not answer: {error}",
            f"gureum status{which}; gureum up -d{which}",
            exit_code=NOT_RUNNING,
        ) from error
    return response


def with_commands(text: str) -> str:
    """An answer as somebody at a command line can follow it."""
    return _NAMED.sub(lambda found: COMMANDS[found[1]], text)


def pages(cloud: Cloud, service: str, operation: str, **parameters: Any) -> Iterator[dict[str, Any]]:
    """The answers of an operation that gives them in pages. Raises CliError likewise."""
    service_client = client(cloud, service)
    for _ in range(PAGES_MAX):
        page = _send(service_client, operation, parameters, cloud)
        yield page
        if not page.get("NextToken"):
            return
        parameters["NextToken"] = page["NextToken"]


def instances(cloud: Cloud) -> Iterator[dict[str, Any]]:
    for page in pages(cloud, "ec2", "describe_instances", MaxResults=PAGE_SIZE):
        for reservation in page.get("Reservations", []):
            yield from reservation.get("Instances", [])


def instances_by_state(cloud: Cloud) -> dict[str, int]:
    return dict(sorted(Counter(instance["State"]["Name"] for instance in instances(cloud)).items()))


def hosts(cloud: Cloud) -> Iterator[dict[str, Any]]:
    for page in pages(cloud, "fleet", "describe_hosts"):
        yield from page["Hosts"]


def hosts_down(cloud: Cloud) -> dict[str, str]:
    """By host, what does not work as long as it is down."""
    found: dict[str, str] = {}
    for host in hosts(cloud):
        if host["State"] == "down" and host.get("PowerState", "awake") == "awake":
            things = [*host.get("NatGatewayIds", ()), *host["InstanceIds"]]
            more = f" and {len(things) - SHOWN_MAX} more" if len(things) > SHOWN_MAX else ""
            found[host["HostId"]] = ", ".join(things[:SHOWN_MAX]) + more
    return found


def survival(cloud: Cloud) -> dict[str, Any]:
    """What the loss of hosts would come to."""
    return call(cloud, "fleet", "describe_survival")


def failed(cloud: Cloud) -> dict[str, str]:
    """Volumes and snapshots that failed (some, if they are many), and why."""
    service_client = client(cloud, "ec2")

    def ask(operation: str, **parameters: Any) -> dict[str, Any]:
        return _send(service_client, operation, parameters, cloud)

    errors = {"Filters": [{"Name": "status", "Values": ["error"]}], "MaxResults": FAILED_MAX}
    found: dict[str, str] = {}
    ids = [volume["VolumeId"] for volume in ask("describe_volumes", **errors).get("Volumes", [])]
    if ids:
        for status in ask("describe_volume_status", VolumeIds=ids).get("VolumeStatuses", []):
            found[status["VolumeId"]] = "; ".join(each["Description"] for each in status.get("Events", []))
    errors["OwnerIds"] = ["self"]
    for snapshot in ask("describe_snapshots", **errors).get("Snapshots", []):
        found[snapshot["SnapshotId"]] = snapshot.get("StateMessage", "")
    return found
