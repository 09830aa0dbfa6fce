"""A real browser, Debian's Chromium, that reaches this machine alone and tells what it has asked for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

import debian

PACKAGES = ("chromium", "chromium-driver", "fonts-dejavu-core")
SWITCHES = (
    "--headless",
    "--no-sandbox",  # in a container there is none to be had; pages are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # as on a machine that has no network
    "--window-size=900,1100",
)


@contextmanager
def browsing(folder: Path) -> Iterator[Chrome]:
    """A browser with nothing in it; its profile lies in a folder of its own."""
    program, driver, environment = _programs()
    options = ChromeOptions()
    options.binary_location = program
    for switch in (*SWITCHES, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = ChromeService(driver, env={**os.environ, **environment, "HOME": str(folder)})
    opened = Chrome(options, service)
    try:
        yield opened
    finally:
        opened.quit()


def requested(browser: Chrome) -> list[str]:
    """Every address that was asked for since this was called last; pages of the browser itself left out."""
    told = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in told if one["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "chrome:"))]


def complaints(browser: Chrome) -> list[str]:
    """What the console says that a developer would have to look at."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def _programs() -> tuple[str, str, dict[str, str]]:
    """The browser, its driver, and what they need in their environment."""
    installed = shutil.which("chromium"), shutil.which("chromedriver")
    if installed[0] and installed[1]:
        return installed[0], installed[1], {}
    root = debian.unpacked("chromium", PACKAGES, "THE PAGE IS NOT TESTED", whole=True)
    folders = [found.parent for found in root.glob("usr/lib/*-linux-gnu/**/*.so*")]
    fonts = {} if Path("/etc/fonts").exists() else {"FONTCONFIG_PATH": str(root / "etc" / "fonts")}
    environment = {"LD_LIBRARY_PATH": ":".join(map(str, dict.fromkeys(folders))), "XDG_DATA_HOME": f"{root}/usr/share"}
    return str(root / "usr/lib/chromium/chromium"), str(root / "usr/bin/chromedriver"), environment | fonts
