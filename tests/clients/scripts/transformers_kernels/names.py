"""The kernels that the code of transformers names in calls of get_kernel and in its mapping."""

import json
import re
import sys
from pathlib import Path

import transformers  # type: ignore[import-not-found]
from transformers.integrations.hub_kernels import (  # type: ignore[import-not-found]
    _HUB_KERNEL_MAPPING,
)

folder = Path(transformers.__file__).parent
call = re.compile(r'\bget_kernel\(\s*"([\w.-]+/[\w.-]+)"')
called = {found for path in folder.rglob("*.py") for found in call.findall(path.read_text("utf-8"))}
mapped = {entry["repo_id"] for entry in _HUB_KERNEL_MAPPING.values()}
sys.stdout.write(f"\n{json.dumps(sorted(called | mapped))}\n")
