"""Load a kernel by the name that transformers has for it, and call it."""

import json
import sys

from transformers.integrations.hub_kernels import lazy_load_kernel  # type: ignore[import-not-found]

kernel = lazy_load_kernel(sys.argv[1])
report = {"version": kernel.VERSION, "doubled": kernel.double(21)}
sys.stdout.write(f"\n{json.dumps(report)}\n")
