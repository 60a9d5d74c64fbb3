"""A newcomer's first minutes in JupyterLab, in a real browser: run all cells, move a slider, see the figure change."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
NOTEBOOK = "01_first_what_if.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 90  # the machine may be busy with other tests
SETTINGS = {
    # All cells stay on the page, whether they are in view or not; no question is asked.
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab; `url` opens the notebook."""

    url: str
    log: Path


@pytest.fixture(scope="module")
def chromium() -> str:
    """Return the path of a browser; skip without one, or the packages, unless a complete machine is promised."""
    missing = [name for name in ("jupyterlab", "ipywidgets", "playwright") if find_spec(name) is None]
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found and not missing:
        return found
    reason = f"no {' and no '.join([*missing, *([] if found else [BROWSERS[0]])])}"
    if os.environ.get("ROOFSERVE_REQUIRE_SHARED") == "1":
        pytest.fail(f"ROOFSERVE_REQUIRE_SHARED=1, but there is {reason}")
    pytest.skip(f"{reason} on this machine")


@pytest.fixture(scope="module")
def lab(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Serve a copy of the first notebook on loopback, with settings of its own."""
    import jupyterlab

    home, token = tmp_path_factory.mktemp("home"), secrets.token_hex(16)
    work = tmp_path_factory.mktemp("work")
    shutil.copy(ROOT / "experiments" / "notebooks" / NOTEBOOK, work)
    for plugin, chosen in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(chosen))
    share = Path(jupyterlab.__file__).parents[4] / "share" / "jupyter"
    environment = os.environ | {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_PATH": str(share),
        "PYTHONPATH": str(ROOT),
        "ROOFSERVE_QUICK": "1",
    }
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--app-dir={share / 'lab'}"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={work}"]
    command += [f"--IdentityProvider.token={token}"]
    log = home / "lab.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=work, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/api/status?token={token}", server, log)
        yield Lab(f"{address}/lab/tree/{NOTEBOOK}?token={token}", log)
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.3)


def opened_and_run(browser: Browser, url: str) -> Page:
    """Open the notebook, choose "Run All Cells", and return the page once its slider is there.

    While a page is still loading, its menu ignores clicks and its widgets may miss what the kernel says, as a person
    on a busy machine finds out too; who then loads the page again.
    """
    from playwright.sync_api import TimeoutError as TooLate

    complaint = ""
    for _ in range(5):
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(1000 * SECONDS)
        try:
            page.goto(url)
            page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()
            page.wait_for_load_state("networkidle", timeout=20_000)
            page.get_by_role("menuitem", name="Run", exact=True).click(timeout=20_000)
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click(timeout=20_000)
            last = page.locator(".jp-CodeCell .jp-InputPrompt").last
            last.filter(has_text=re.compile(r"\[(\*|\d+)\]")).wait_for(timeout=20_000)
            last.filter(has_text=re.compile(r"\d")).wait_for()
            page.get_by_role("slider").first.wait_for(timeout=20_000)
        except TooLate as error:
            complaint = str(error)
            page.close()
        else:
            return page
    pytest.fail(f"the cells cannot be run, or no slider appears: {complaint}")


def test_a_slider_moves_and_the_figure_changes(chromium: str, lab: Lab) -> None:
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = opened_and_run(browser, lab.url)
        expect.set_options(timeout=1000 * SECONDS)
        # A result shows itself: the verdict, and the queue as a drawing with words.
        expect(page.get_by_text("✓ stable").first).to_be_visible()
        expect(page.get_by_role("img", name="Requests in the system").first).to_be_visible()
        picture = page.locator(".jp-CodeCell").last.locator("img")
        expect(picture).to_have_count(1)
        before, said = picture.get_attribute("src"), picture.get_attribute("alt")
        slider = page.get_by_role("slider").first
        slider.focus()
        slider.press("ArrowRight")
        slider.press("ArrowRight")
        expect(page.locator(".widget-readout").first).to_have_text("1.20")
        expect(picture).not_to_have_attribute("src", str(before))
        expect(picture).not_to_have_attribute("alt", str(said))
        assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
        assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
        browser.close()
