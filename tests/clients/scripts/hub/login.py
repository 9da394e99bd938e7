"""Log in with a token, and ask who that is."""

import json
import sys

from huggingface_hub import HfApi, login

login(token=sys.argv[1], add_to_git_credential=False)
json.dump({"name": HfApi().whoami()["name"]}, sys.stdout)
