"""Flower's pages, in a real browser: what an operator sees of tickets and workers."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

import headrace
from headrace.db.engine import Database
from headrace.registry import versions
from headrace.stack import Stack
from headrace.storage import open_store
from tests.services import unavailable

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--window-size=1600,900"
).split()
WAIT = 30
T = TypeVar("T")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        unavailable("a browser", "chromium and chromedriver are not both on PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    with webdriver.Chrome(options=options, service=Service(driver)) as browser:
        yield browser


@pytest.fixture(scope="module")
def flower(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Flower's address, once three tickets of 50 jobs have been answered."""
    package = headrace.package_module(
        torch.nn.Linear(4, 2), {"input": torch.rand(4, 4)}, tmp_path_factory.mktemp("m") / "rows"
    )
    database = Database(stack.settings["database_url"])
    versions.push(database, open_store(stack.settings["store_url"]), package)
    database.close()
    with headrace.Client(**stack.settings) as client:
        for _ in range(3):
            client.wait(client.submit_many("rows", np.zeros((50, 4))))
    assert stack.flower_url is not None
    return stack.flower_url


@pytest.fixture
def look(browser: webdriver.Chrome, tmp_path: Path) -> Callable[[str, Callable[[], T]], T]:
    """Opens a page again and again until it shows what is looked for; leaves a screenshot."""

    def look(url: str, find: Callable[[], T]) -> T:
        end = time.monotonic() + WAIT
        while True:
            browser.get(url)
            found = look_for_a_second(find)
            if found or time.monotonic() > end:
                browser.save_screenshot(str(tmp_path / "page.png"))
                assert found, f"{url} never showed it; see {tmp_path}/page.png"
                return found

    return look


def look_for_a_second(find: Callable[[], T]) -> T | None:
    """Scripts fill the page after it has loaded."""
    for _ in range(10):
        found = find()
        if found:
            return found
        time.sleep(0.1)
    return None


def rows(browser: webdriver.Chrome, table: str) -> list[dict[str, str]]:
    """A table's rows, by the heads of its columns; read at once, as the page changes itself."""
    found: list[dict[str, str]] = browser.execute_script(
        """
        const text = cell => cell.textContent.trim();
        const head = cell => text(cell).toLowerCase();
        const table = document.getElementById(arguments[0]);
        const heads = [...table.querySelectorAll("thead tr:first-child th")].map(head);
        return [...table.querySelectorAll("tbody tr")].map(row =>
            Object.fromEntries([...row.children].map((cell, i) => [heads[i], text(cell)])));
        """,
        table,
    )
    return found


def test_a_ticket_is_a_readable_task(browser: webdriver.Chrome, flower: str, look) -> None:
    def ours() -> list[dict[str, str]]:
        shown = [row for row in rows(browser, "tasks-table") if "rows@1" in str(row)]
        return shown if len(shown) >= 3 and all("SUCCESS" in str(row) for row in shown) else []

    tasks = look(f"{flower}/tasks", ours)
    for task in tasks:
        assert task["name"] == "headrace.predict"
        assert task["args"] == "rows@1 ×50"
        assert task["state"] == "SUCCESS"
        assert float(re.match(r"[\d.]+", task["runtime"])[0]) >= 0
    results = {task["result"] for task in tasks}
    assert any(re.fullmatch(r"'?50 jobs, [\d.]+ ms on the device'?", text) for text in results)


def test_the_worker_is_online_with_its_queues(browser: webdriver.Chrome, flower: str, look) -> None:
    def online() -> list[dict[str, str]]:
        return [row for row in rows(browser, "workers-table") if row.get("status") == "Online"]

    (worker,) = look(f"{flower}/workers", online)
    assert worker["worker"].startswith("default-cpu-")
    assert int(worker["succeeded"]) >= 3
    assert int(worker["failed"]) == 0

    def queues() -> list[str]:
        browser.execute_script("document.getElementById('worker-tab-queues')?.click()")
        cells = browser.find_elements(By.CSS_SELECTOR, "#tab-queues td:first-child")
        # Not what is visible: the tab fades in.
        return [cell.get_attribute("textContent").strip() for cell in cells]

    shown = look(f"{flower}/worker/{worker['worker']}", queues)
    assert set(shown) == {f"headrace.default.{name}" for name in ("high", "normal", "bulk")}
