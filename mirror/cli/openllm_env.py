"""The environment variables that make OpenLLM 0.6 on a GPU host use the mirror."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMATS = ("shell", "dotenv", "docker", "systemd")
# Python's ssl, uv and hf_xet; requests and old pip; git; curl; node.
_CA_VARIABLES = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
_OFFLINE_VARIABLES = {
    "UV_PYTHON_DOWNLOADS": "never",
    "BENTOML_DO_NOT_TRACK": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_INDEX_PATH = "/-/simple/"


def variables(url: str, hosts: Sequence[str], token: str = "", ca_file: str = "") -> dict[str, str]:
    """The variables and their values, for the mirror at `url`.

    `hosts` are the hosts of the model repositories. The `token` is part of the URLs of git and uv,
    which send it. `ca_file` is the path of the authority's certificate on the GPU host. Tests run
    OpenLLM 0.6.30 without a network; each variable is needed there.
    """
    scheme, _, rest = url.partition("://")
    base = f"{scheme}://hubmirror:{quote(token, safe='')}@{rest}" if token else url
    environment = {
        "HF_ENDPOINT": url,
        # BentoML does not start a bento whose HF_TOKEN is empty. A mirror without a token accepts
        # any value.
        "HF_TOKEN": token or "hubmirror",
        "GIT_CONFIG_COUNT": str(len(hosts)),
    }
    for number, host in enumerate(hosts):
        environment[f"GIT_CONFIG_KEY_{number}"] = f"url.{base}/-/git/{host}/.insteadOf"
        environment[f"GIT_CONFIG_VALUE_{number}"] = f"https://{host}/"
    environment["UV_DEFAULT_INDEX"] = f"{base}{_INDEX_PATH}"
    return (
        environment | _OFFLINE_VARIABLES | dict.fromkeys(_CA_VARIABLES if ca_file else (), ca_file)
    )


def constraints_url(environment: dict[str, str], name: str) -> str:
    """The URL of the constraints file of the closure `name`, at the mirror of `environment`."""
    return f"{environment['UV_DEFAULT_INDEX'].removesuffix(_INDEX_PATH)}/-/constraints/{name}.txt"


def format_variable(output_format: str, name: str, value: str) -> str:
    """A variable as a line of a shell script, a systemd unit, or the arguments of docker run.

    `output_format` is one of FORMATS. `dotenv` is the format of `docker run --env-file`, which does
    not interpret quotes.
    """
    match output_format:
        case "shell":
            return f"export {name}={shlex.quote(value)}"
        case "systemd":
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
            return f'Environment="{name}={escaped}"'
        case "docker":
            return f"-e {shlex.quote(f'{name}={value}')}"
    return f"{name}={value}"
