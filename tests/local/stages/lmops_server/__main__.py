"""`python -m lmops_server serve DOCUMENT`: answers every question with what it was told, once its model is loaded.

A file `broken` in the model's folder keeps it from that; a file `slow` makes it take its time. Texts are of the class
that the file `label` names; `stats.json` is what it says of its traffic. Asked to end, it goes on for a moment, as the
real one does, for those whose connection is on its way. `gate` is the real one, beside which no stand-in stands.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def main(document: dict[str, Any]) -> int:
    """Serves until SIGTERM."""
    folder = Path(os.environ["LMOPS_VOLUMES"]) / document["model"]["uri"].removeprefix("pvc://")
    loaded = threading.Event()
    keys = sorted(file.read_text() for file in Path(os.environ.get("LMOPS_API_KEYS", "/nowhere")).glob("*"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready = loaded.is_set() or self.path == "/v2/health/live"
            told = {"model": document["model"], "spec": document["spec"], "keys": keys, "pid": os.getpid()}
            told |= {"properties": {"task": "SequenceClassification"}}
            figures = folder / "stats.json"
            if self.path == "/stats" and figures.exists():
                told = json.loads(figures.read_text())
            self.answer(200 if ready else 503, told)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            label = (folder / "label").read_text() if (folder / "label").exists() else "positive"
            self.answer(200, {"data": [{"index": 0, "label": label}]})

        def answer(self, status: int, told: dict[str, Any]) -> None:
            body = json.dumps(told)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((os.environ["LMOPS_HOST"], int(os.environ["LMOPS_PORT"])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ends = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ends.set())
    print("loads", document["model"]["uri"], flush=True)
    if (folder / "broken").exists():
        why = {"class": "Model", "reason": "WeightsMissing", "message": f"{document['model']['uri']} has no weights."}
        words = {"failure": {**why, "remedy": "Publish the model again."}}
        Path(os.environ["LMOPS_TERMINATION_LOG"]).write_text(json.dumps(words))
        return 1
    while (folder / "slow").exists():
        if ends.wait(0.05):
            return 0
    loaded.set()
    ends.wait()
    time.sleep(0.5)
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "gate":
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        os.execve(sys.executable, [sys.executable, "-m", "lmops_server", *sys.argv[1:]], environment)
    sys.exit(main(json.loads(sys.argv[2])))
