"""What a GPU host is to set, so that OpenLLM 0.6 finds all of it at the mirror."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMATS = ("shell", "dotenv", "docker", "systemd")
# Python's ssl, uv and hf_xet; requests and old pip; git; curl; node.
_TRUST = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
_SWITCHES = {
    "UV_PYTHON_DOWNLOADS": "never",
    "BENTOML_DO_NOT_TRACK": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_INDEX = "/-/simple/"


def variables(url: str, hosts: Sequence[str], token: str = "", ca_file: str = "") -> dict[str, str]:
    """The environment; each variable was needed by a closed run of OpenLLM 0.6.30. `hosts` are
    those of the model repositories. git and uv send a `token` that stands in a URL."""
    scheme, _, rest = url.partition("://")
    ours = f"{scheme}://hubmirror:{quote(token, safe='')}@{rest}" if token else url
    told = {
        "HF_ENDPOINT": url,
        # BentoML refuses to start a bento whose HF_TOKEN is empty; an open mirror takes any.
        "HF_TOKEN": token or "hubmirror",
        "GIT_CONFIG_COUNT": str(len(hosts)),
    }
    for number, host in enumerate(hosts):
        told[f"GIT_CONFIG_KEY_{number}"] = f"url.{ours}/-/git/{host}/.insteadOf"
        told[f"GIT_CONFIG_VALUE_{number}"] = f"https://{host}/"
    told["UV_DEFAULT_INDEX"] = f"{ours}{_INDEX}"
    return told | _SWITCHES | dict.fromkeys(_TRUST if ca_file else (), ca_file)


def constraint(told: dict[str, str], name: str) -> str:
    """Where uv finds the versions that were chosen for one model, beside its index."""
    return f"{told['UV_DEFAULT_INDEX'].removesuffix(_INDEX)}/-/constraints/{name}.txt"


def line(form: str, name: str, value: str) -> str:
    """A variable as a shell, a file of systemd's, or docker's command line wants it; `dotenv` is
    that of `docker run --env-file`, which knows no quotes."""
    match form:
        case "shell":
            return f"export {name}={shlex.quote(value)}"
        case "systemd":
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
            return f'Environment="{name}={escaped}"'
        case "docker":
            return f"-e {shlex.quote(f'{name}={value}')}"
    return f"{name}={value}"
