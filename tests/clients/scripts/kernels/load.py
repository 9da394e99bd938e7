"""Load a kernel, by its version or its revision, and call it."""

import json
import sys

from kernels import get_kernel  # type: ignore[import-not-found]

repo_id, how, which = sys.argv[1:]
asked = {how: int(which) if how == "version" else which}
kernel = get_kernel(repo_id, **asked)
json.dump({"version": kernel.VERSION, "doubled": kernel.double(21)}, sys.stdout)
