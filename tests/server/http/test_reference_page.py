"""The documentation page, in a browser."""

import json

import pytest
import trio
from selenium import webdriver
from servers import open_test_server

from cryomamba_server.http.app import all_routes
from cryomamba_server.http.openapi import TAGS, openapi_document


@pytest.fixture
def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1024"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


async def test_the_page_shows_every_operation_and_asks_for_nothing_elsewhere(tmp_path, browser):
    document = openapi_document(all_routes())
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    async with open_test_server(tmp_path / "data") as server:
        await trio.to_thread.run_sync(browser.get, f"{server.url}/v1/docs")
        shown = await trio.to_thread.run_sync(browser.execute_script, _LOOK)
        # the browser asks for an icon by itself
        said = [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
        asked = {
            message["params"]["request"]["url"]
            for message in (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
            if message["method"] == "Network.requestWillBeSent"
        }
    assert said == []
    assert asked <= {f"{server.url}/v1/docs", f"{server.url}/favicon.ico"}
    assert shown["articles"] == [
        *(operation["operationId"] for operation in sorted(operations, key=_place)),
        *(f"schema-{name}" for name in document["components"]["schemas"]),
    ]
    assert shown["dangling"] == []
    assert shown["columns"] == "grid", "the style was not applied"


def _place(operation):
    return list(TAGS).index(operation["tags"][0])


_LOOK = """
const links = [...document.querySelectorAll('a[href^="#"]')];
return {
  articles: [...document.querySelectorAll("article")].map(article => article.id),
  dangling: links.map(link => link.hash.slice(1)).filter(name => !document.getElementById(name)),
  columns: getComputedStyle(document.body).display,
};
"""
