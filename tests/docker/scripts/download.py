"""Download a URL again and again, at 2 MiB/s, by eight connections. None is repeated.

It ends at SIGTERM, or after one download that breaks or is wrong. The last line is their number.
"""

import hashlib
import signal
import sys
import threading
import time
import urllib.request

url, sha256 = sys.argv[1:]
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
faults: list[str] = []
done = 0


def download() -> None:
    global done
    while not stopped.is_set() and not faults:
        digest = hashlib.sha256()
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                while part := answer.read(1 << 20):
                    digest.update(part)
                    time.sleep(0.5)
        except OSError as exc:
            faults.append(repr(exc))
        if digest.hexdigest() == sha256:
            done += 1
        else:
            faults.append(f"another digest: {digest.hexdigest()}")


threads = [threading.Thread(target=download) for _ in range(8)]
for thread in threads:
    thread.start()
    time.sleep(0.3)
print("started", flush=True)
for thread in threads:
    thread.join()
print(faults or done)
sys.exit(bool(faults))
