"""Ask a URL until it answers 200, for so many seconds, and print what it says.

usage: ask.py SECONDS URL [BODY], where a body, which is JSON, is posted
"""

import sys
import time
import urllib.error
import urllib.request

seconds, url, *body = sys.argv[1:]
request = urllib.request.Request(url, body[0].encode() if body else None)
request.add_header("Content-Type", "application/json")
deadline = time.monotonic() + float(seconds)
while True:
    try:
        with urllib.request.urlopen(request, timeout=max(float(seconds), 1)) as answer:
            sys.stdout.write(answer.read().decode())
        break
    except OSError as exc:
        said = (
            exc.read().decode(errors="replace") if isinstance(exc, urllib.error.HTTPError) else ""
        )
        if time.monotonic() > deadline:
            sys.exit(f"{url}: {exc} {said}")
        time.sleep(0.2)
