"""What goes wrong in a running server reaches a person, by Prometheus and Alertmanager: a webhook, and mail."""

from __future__ import annotations

import email
import json
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import prometheus
import served
from builders import SETTINGS
from lmops.api import LanguageModelService
from lmops.api.slo import DURATION_BUCKETS
from lmops.serving.monitoring import configmap, prometheusrule
from lmops.serving.remedies import REMEDIES
from lmops_server.metrics import DURATION
from served import Server, Volumes, free_port

EXAMPLE = Path(__file__).parents[2] / "docs" / "alerting" / "alertmanager.yaml"
SERVICE = LanguageModelService.model_validate(
    {
        "metadata": {"name": "reviews", "namespace": "default", "uid": "u-3"},
        "spec": {
            "model": {"from": {"uri": "pvc://models/reviews"}},
            "slo": {"latency": {"seconds": 0.5}},
            "monitoring": {"noTrafficMinutes": 30},
        },
    }
)
"""A service with every alert."""
GROUPS = prometheusrule(SERVICE, SETTINGS)["spec"]["groups"]
SCRAPED = {"namespace", "job", "pod", "lmops_dev_revision"}
"""The labels that the PodMonitor gives to all that it scrapes."""
FULL = 4
"""The most inputs that the server takes on."""
ERRORS = "LanguageModelServiceErrors"


@pytest.fixture(scope="module")
def server(volumes: Volumes, masked: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that is soon full."""
    document = served.document(masked, limits={"queue": FULL})
    with served.serving(volumes, document, tmp_path_factory.mktemp("served")) as started:
        yield started


def ask(server: Server) -> int:
    """A request with as many inputs as the server takes on; its status."""
    with server.client() as client:
        return client.post("/v1/fill-mask", json={"input": ["a [MASK] film"] * FULL}).status_code


def expressions() -> Iterator[str]:
    """All that is asked of Prometheus, by the rules and by the dashboard."""
    for group in GROUPS:
        yield from (rule["expr"] for rule in group["rules"])
    (dashboard,) = configmap(SERVICE, SETTINGS)["data"].values()
    for panel in json.loads(dashboard)["panels"]:
        yield from (curve["expr"] for curve in panel["targets"])


def test_no_metric_of_a_rule_or_of_the_dashboard_is_unknown_to_the_server(server: Server):
    assert ask(server) == 200
    with server.client() as client:
        names, labels = prometheus.exposed(client.get("/metrics").text)
    labels |= {"of"}  # of drift, once there are enough inputs: tests/server/test_drift.py
    recorded = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}

    for expression in expressions():
        assert prometheus.metrics(expression) <= names | recorded | {"up"}, expression
        assert prometheus.labels(expression) <= labels | SCRAPED | {"service"}, expression


def test_the_buckets_that_rules_count_by_are_those_of_the_server():
    assert DURATION == DURATION_BUCKETS


def test_alertmanager_takes_the_example():
    done = subprocess.run(
        [prometheus.program("amtool"), "check-config", EXAMPLE], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_requests_that_are_refused_reach_a_person(server: Server, tmp_path: Path):
    with webhook() as (url, called), mailbox() as (smarthost, mails), ExitStack() as stack:
        alertmanager = stack.enter_context(running_alertmanager(tmp_path, url, smarthost))
        stack.enter_context(running_prometheus(tmp_path, server, alertmanager))
        with ThreadPoolExecutor(8) as clients:
            end = time.monotonic() + 60
            while not (pages(called) and any(ERRORS in mail for mail in mails)):
                assert time.monotonic() < end, "nobody was told within a minute"
                statuses = list(clients.map(lambda _: ask(server), range(16)))
                assert set(statuses) <= {200, 429}

    alert = pages(called)[0]
    assert (alert["status"], alert["labels"]["severity"], alert["labels"]["service"]) == (
        "firing",
        "critical",
        "reviews",
    )
    assert "runbook_url" not in alert["annotations"]
    assert "% of the requests fail" in alert["annotations"]["description"]
    assert any(REMEDIES[ERRORS] in text for mail in mails for text in texts(mail))
    assert all("To: models@example.com" in mail for mail in mails)


def texts(mail: str) -> list[str]:
    """What a person reads of a mail, as it is written and as a page."""
    parts = email.message_from_string(mail).walk()
    return [part.get_payload(decode=True).decode() for part in parts if not part.is_multipart()]


def pages(called: list[Any]) -> list[Any]:
    """What a pager was told of failing requests."""
    return [alert for call in called for alert in call["alerts"] if alert["labels"]["alertname"] == ERRORS]


@contextmanager
def running_prometheus(folder: Path, server: Server, alertmanager: str) -> Iterator[None]:
    """Prometheus, which scrapes a server as the PodMonitor has it done, but more often."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": GROUPS}))
    target = {"targets": [server.url.removeprefix("http://")], "labels": {"namespace": "default", "pod": "reviews-0"}}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "default/reviews-metrics", "static_configs": [target]}],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    arguments = (f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data")
    with process(folder, "prometheus", *arguments):
        yield


@contextmanager
def running_alertmanager(folder: Path, url: str, smarthost: str) -> Iterator[str]:
    """Alertmanager with the example's routes, and receivers that are here; its address."""
    config = yaml.safe_load(EXAMPLE.read_text())
    config["global"] |= {"smtp_smarthost": smarthost, "smtp_require_tls": False}
    config["route"]["group_wait"] = "1s"
    for receiver in config["receivers"]:
        for hook in receiver.get("webhook_configs", ()):
            hook["url"] = url
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(config))
    arguments = (f"--config.file={folder}/alertmanager.yaml", f"--storage.path={folder}/silences")
    with process(folder, "prometheus-alertmanager", *arguments, "--cluster.listen-address=") as address:
        yield address


@contextmanager
def process(folder: Path, name: str, *arguments: str) -> Iterator[str]:
    """A program that is ready, until the end of the block; its address."""
    address, log = f"127.0.0.1:{free_port()}", folder / f"{name}.log"
    command = [prometheus.program(name), *arguments, f"--web.listen-address={address}"]
    with log.open("wb") as file:
        started = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        while not _is_ready(address):
            assert started.poll() is None, log.read_text()[-3000:]
            time.sleep(0.1)
        yield address
    finally:
        started.terminate()
        started.wait(30)


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def webhook() -> Iterator[tuple[str, list[Any]]]:
    """Where a pager listens, and what it was told."""
    told: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}/alerts", told


@contextmanager
def mailbox() -> Iterator[tuple[str, list[str]]]:
    """A mail server, and what it was given."""
    mails: list[str] = []
    with listening(socketserver.ThreadingTCPServer(("127.0.0.1", 0), _postman(mails.append))) as port:
        yield f"127.0.0.1:{port}", mails


def _postman(take: Callable[[str], None]) -> type[socketserver.StreamRequestHandler]:
    """As much of SMTP as takes a mail."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 mailbox\r\n")
            while line := self.rfile.readline():
                word = line.split()[0].upper() if line.split() else b""
                if word == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    take(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
                self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 mailbox\r\n")
                if word == b"QUIT":
                    return

    return Handler


@contextmanager
def listening(server: socketserver.TCPServer) -> Iterator[int]:
    """A server of this process, until the end of the block; its port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
