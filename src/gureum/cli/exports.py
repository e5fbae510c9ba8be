"""`gureum env`: what AWS tools read from their environment, in the words of a shell."""

import json
import shlex

from gureum.cli.config import CloudConfig
from gureum.cli.output import USAGE, CliError

STYLES = ("shell", "fish", "json")


def variables(config: CloudConfig) -> dict[str, str]:
    exports = {
        "AWS_ENDPOINT_URL": config.endpoint,
        "AWS_ACCESS_KEY_ID": config.access_key_id,
        "AWS_SECRET_ACCESS_KEY": config.secret_access_key,
        "AWS_DEFAULT_REGION": config.region,
        "AWS_REGION": config.region,
    }
    if config.tls_cert:
        exports["AWS_CA_BUNDLE"] = config.tls_cert
    return exports


def render(config: CloudConfig, style: str) -> str:
    exports = variables(config)
    if style == "json":
        return json.dumps(exports, indent=2)
    if style == "shell":
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in exports.items())
    if style == "fish":
        # fish reads '...' as it stands, but for \ and '.
        quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in exports.items()}
        return "\n".join(f"set -gx {name} '{value}'" for name, value in quoted.items())
    raise CliError(f"there is no format {style!r}", f"choose from: {', '.join(STYLES)}", exit_code=USAGE)
