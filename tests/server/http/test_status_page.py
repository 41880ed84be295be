"""The status page, as people meet it: in a browser."""

import hashlib
import json
import urllib.error
import urllib.request
from functools import partial
from http.client import HTTPConnection
from io import BytesIO
from urllib.parse import urlencode, urlsplit

import engines
import numpy as np
import pytest
import servers
import trio
from attrs import evolve
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import WebDriverWait

from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.labels import Label
from cryomamba_core.previews import Preview
from cryomamba_server.http.pages import slices

pytestmark = pytest.mark.once

SHAPE = (6, 48, 64)


@pytest.fixture
def browser(tmp_path, monkeypatch):
    monkeypatch.setenv("SE_AVOID_STATS", "true")
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1000,1200",
        "--disable-background-networking",  # and the next two: it shall talk to nobody else
        "--disable-component-update",
        "--disable-sync",
    ):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield Browser(driver, tmp_path / "downloads")
    driver.quit()


@pytest.fixture(autouse=True)
def installed_strangers(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))


@pytest.fixture
def gate(tmp_path):
    folder = tmp_path / "gate"
    folder.mkdir()
    return folder


class Browser:
    """Chromium, driven from other threads than trio's."""

    def __init__(self, driver, downloads):
        self.driver = driver
        self.downloads = downloads

    def open(self, url):
        self.driver.get(url)

    def log_in(self, token):
        field = self.driver.find_element(By.ID, "token")
        field.clear()
        field.send_keys(token)
        button = self.driver.find_element(By.CSS_SELECTOR, ".login button")
        button.click()
        WebDriverWait(self.driver, engines.DEADLINE, 0.05).until(staleness_of(button))

    def text(self, selector="body"):
        found = "const found = document.querySelector(arguments[0]); return found ? found.innerText : ''"
        return " ".join(self.driver.execute_script(found, selector).split())

    def click(self, selector):
        """Click what is there now: the page may put another in its place at any time."""
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)

    def attribute(self, selector, name):
        return self.driver.execute_script(
            "const found = document.querySelector(arguments[0]); return found && found.getAttribute(arguments[1])",
            selector,
            name,
        )

    def until(self, condition):
        return WebDriverWait(self.driver, engines.DEADLINE, 0.05).until(lambda _: condition())

    def picture(self):
        """The preview that is on the page, as it is drawn, once it is there."""
        return self.until(lambda: self.driver.execute_script(PICTURE))

    def complaints(self):
        """What the browser complains of, policy violations included."""
        return [entry for entry in self.driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]


PICTURE = """
const picture = document.querySelector("img.preview");
if (picture === null || !picture.complete || !picture.naturalWidth) return "";
const canvas = document.createElement("canvas");
[canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
canvas.getContext("2d").drawImage(picture, 0, 0);
return canvas.toDataURL();
"""


def open_server(tmp_path):
    return servers.open_test_server(tmp_path / "data", allow_roots=(tmp_path,))


def in_thread(function, *arguments, **values):
    return trio.to_thread.run_sync(partial(function, *arguments, **values))


async def running_job(server, tomogram, gate):
    """A job of ada's that has done two of its six sections, and shows a preview."""
    job = await server.services.engine.submit(engines.steps(tomogram, gate=str(gate)), owner="ada")
    engines.open_gate(gate, 0, 1)
    await engines.heard(server.services.engine, job.id, until=lambda event: event.type == "preview")
    return job.id


async def ask(server, path, **values):
    """Status, headers and body of an answer; redirects are not followed."""
    return await in_thread(_ask, server, path, **values)


def _ask(server, path, *, method="GET", cookie=None, body=None, **headers):
    place = urlsplit(server.url)
    connection = HTTPConnection(place.hostname, place.port, timeout=engines.DEADLINE)
    try:
        if cookie:
            headers["Cookie"] = cookie
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, body=body, headers={name.replace("_", "-"): headers[name] for name in headers})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


async def log_in(server, **values):
    """A session's cookie, as a browser would send it back."""
    status, headers, _ = await ask(
        server, "/pages/login", method="POST", body=urlencode({"token": server.token(**values)}), Origin=server.url
    )
    assert status == 303
    return headers["Set-Cookie"].partition(";")[0]


async def test_a_visit_from_a_wrong_token_to_the_download_and_the_way_out(tmp_path, browser, gate):
    tomogram = engines.make_tomogram(tmp_path / "grid4_ts_001.npy", SHAPE)
    async with open_server(tmp_path) as server:
        engine = server.services.engine
        await in_thread(browser.open, server.url)
        await in_thread(browser.log_in, "not a token")
        await in_thread(browser.until, lambda: "does not count" in browser.text("[role=alert]"))
        assert all("401" in entry["message"] for entry in await in_thread(browser.complaints))

        job_id = await running_job(server, tomogram, gate)
        await in_thread(browser.log_in, server.token())
        await in_thread(browser.until, lambda: "grid4_ts_001.npy" in browser.text("#status"))
        await in_thread(browser.until, lambda: "Logged in as ada" in browser.text("header"))
        first_picture = await in_thread(browser.picture)
        first_share = float(await in_thread(browser.attribute, "progress", "value"))
        first_source = await in_thread(browser.attribute, "img.preview", "src")
        waiting = await engine.submit(engines.steps(tomogram, gate=str(gate)), owner="ada")
        await in_thread(browser.until, lambda: browser.text("#waiting-title") == "Waiting 1")

        engines.open_gate(gate, 2, 3, 4)
        await in_thread(browser.until, lambda: float(browser.attribute("progress", "value")) > first_share)
        await in_thread(browser.until, lambda: browser.attribute("img.preview", "src") != first_source)
        await in_thread(browser.until, lambda: browser.picture() != first_picture)

        engines.open_gate(gate)
        for each in (job_id, waiting.id):
            await engines.heard(engine, each)
        await in_thread(browser.until, lambda: "No job of yours runs" in browser.text("#status"))
        await in_thread(_download, browser, f"#get-{job_id}-1")
        record = await engine.job(job_id, owner=None)
        kept = browser.downloads / record.artifacts[0].name
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == record.artifacts[0].sha256

        await in_thread(browser.click, "header button")
        await in_thread(browser.until, lambda: browser.driver.find_elements(By.ID, "token"))
        assert await in_thread(browser.complaints) == []


def _download(browser, selector):
    browser.click(selector)
    browser.until(lambda: browser.downloads.exists() and any(_whole(path) for path in browser.downloads.iterdir()))


def _whole(path):
    return not path.name.endswith((".crdownload", ".tmp")) and path.stat().st_size > 0


async def test_without_a_script_the_page_renews_itself(tmp_path, browser):
    async with open_server(tmp_path) as server:
        await in_thread(browser.open, server.url)
        await in_thread(browser.log_in, server.token())
        disable = partial(browser.driver.execute_cdp_cmd, "Emulation.setScriptExecutionDisabled", {"value": True})
        await in_thread(disable)
        await in_thread(browser.open, server.url)
        await in_thread(browser.until, lambda: "No job of yours runs" in browser.text("#status"))
        markup = await in_thread(lambda: browser.driver.page_source)
        assert '<meta http-equiv="refresh"' in markup


async def test_names_that_are_markup_stay_text(tmp_path, browser, gate):
    """The name of a file is whatever its owner likes."""
    tomogram = engines.make_tomogram(tmp_path / "x.npy", SHAPE)
    async with open_server(tmp_path) as server:
        hostile = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
        config = evolve(engines.steps(tomogram, gate=str(gate)), label=hostile)
        job = await server.services.engine.submit(config, owner="ada")
        await in_thread(browser.open, server.url)
        await in_thread(browser.log_in, server.token())
        await in_thread(browser.until, lambda: hostile in browser.text("#status"))
        assert await in_thread(lambda: browser.driver.title) == "Status · CryoMamba"
        assert await in_thread(browser.complaints) == []
        await server.services.engine.cancel(job.id, owner=None)


async def test_the_policy_keeps_out_what_is_not_ours(tmp_path, browser):
    """With the policy taken out, the same script runs."""
    put = """
        const added = document.createElement("script");
        added.textContent = "document.title = 'owned'";
        document.body.append(added);
    """
    async with open_server(tmp_path) as server:
        await in_thread(browser.open, server.url)
        await in_thread(browser.driver.execute_script, put)
        assert await in_thread(lambda: browser.driver.title) == "Log in · CryoMamba"
        assert any("Content Security Policy" in entry["message"] for entry in await in_thread(browser.complaints))
        await in_thread(browser.driver.execute_cdp_cmd, "Page.setBypassCSP", {"enabled": True})
        await in_thread(browser.open, server.url)
        await in_thread(browser.driver.execute_script, put)
        assert await in_thread(lambda: browser.driver.title) == "owned"


async def test_every_colour_of_the_page_can_be_read(tmp_path, browser):
    """Contrast of each text with what is behind it, by the formula of WCAG, in light and in dark."""
    async with open_server(tmp_path) as server:
        tomogram = engines.make_tomogram(tmp_path / "x.npy", SHAPE)
        for fault in ("", "raises"):
            job = await server.services.engine.submit(engines.steps(tomogram, fault=fault), owner="ada")
            await engines.heard(server.services.engine, job.id)
        await in_thread(browser.open, server.url)
        await in_thread(browser.log_in, server.token())
        await in_thread(browser.until, lambda: "failed" in browser.text("#status"))
        for scheme in ("light", "dark"):
            feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            await in_thread(browser.driver.execute_cdp_cmd, "Emulation.setEmulatedMedia", feature)
            pairs = await in_thread(browser.driver.execute_script, COLOURS)
            assert len(pairs) > 10
            for words, front, back in pairs:
                assert contrast(front, back) >= 4.5, (scheme, words, front, back)


COLOURS = """
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const words = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
  if (!words || element.closest("noscript, svg, progress")) continue;
  let behind = element;
  while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  found.push([words, getComputedStyle(element).color, getComputedStyle(behind || document.body).backgroundColor]);
}
return found;
"""


def contrast(front, back):
    first, second = sorted((luminance(front), luminance(back)), reverse=True)
    return (first + 0.05) / (second + 0.05)


def luminance(colour):
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


async def test_others_see_nothing_of_a_job(tmp_path, gate):
    tomogram = engines.make_tomogram(tmp_path / "secret_name.npy", SHAPE)
    async with open_server(tmp_path) as server:
        job_id = await running_job(server, tomogram, gate)
        engines.open_gate(gate)
        await engines.heard(server.services.engine, job_id)
        mine, others = await log_in(server), await log_in(server, subject="ben")
        places = [f"/pages/jobs/{job_id}/preview.png", f"/pages/jobs/{job_id}/files/mask.npy"]
        assert [(await ask(server, place, cookie=mine))[0] for place in places] == [200, 303]
        assert [(await ask(server, place, cookie=others))[0] for place in places] == [404, 404]
        assert [(await ask(server, place))[0] for place in places] == [401, 401]
        assert b"secret_name" in (await ask(server, "/", cookie=mine))[2]
        assert b"secret_name" not in (await ask(server, "/", cookie=others))[2]
        assert b"secret_name" not in (await ask(server, "/"))[2]


async def test_results_are_only_for_tokens_that_may_fetch_them(tmp_path):
    tomogram = engines.make_tomogram(tmp_path / "x.npy", SHAPE)
    async with open_server(tmp_path) as server:
        job = await server.services.engine.submit(engines.steps(tomogram), owner="ada")
        await engines.heard(server.services.engine, job.id)
        cookie = await log_in(server, scopes=("jobs:read",))
        page = (await ask(server, "/", cookie=cookie))[2]
        assert b"mask.npy" in page
        assert b"/files/" not in page
        assert (await ask(server, f"/pages/jobs/{job.id}/files/mask.npy", cookie=cookie))[0] == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Origin": "OWN"}, 303),
        ({}, 303),
    ],
)
async def test_a_form_of_another_site_does_nothing(tmp_path, headers, status):
    async with open_server(tmp_path) as server:
        cookie = await log_in(server)
        given = {name: server.url if value == "OWN" else value for name, value in headers.items()}
        assert (await ask(server, "/pages/logout", method="POST", cookie=cookie, body="", **given))[0] == status
        assert (b"Logged in" in (await ask(server, "/", cookie=cookie))[2]) == (status == 403)
        body = urlencode({"token": server.token()})
        assert (await ask(server, "/pages/login", method="POST", body=body, **given))[0] == status


async def test_the_cookie_is_out_of_reach_and_ends_with_the_token(tmp_path):
    async with open_server(tmp_path) as server:
        body = urlencode({"token": server.token()})
        _, headers, _ = await ask(server, "/pages/login", method="POST", body=body)
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(headers["Set-Cookie"].split("; "))
        cookie = headers["Set-Cookie"].partition(";")[0]
        assert server.token().partition(".")[0] not in cookie
        assert (await ask(server, "/pages/status", cookie=cookie))[0] == 200
        for record in server.services.gate.issuer._store.all():
            server.services.gate.issuer._store.revoke([record.id])
        status, _, body = await ask(server, "/pages/status", cookie=cookie)
        assert (status, json.loads(body)["error"]["code"]) == (401, "access/unauthenticated")


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"token=" + b"x" * 20_000, "application/x-www-form-urlencoded", 413),
        (b"\xff\xfe", "application/x-www-form-urlencoded", 400),
        (b"a=1&" * 100, "application/x-www-form-urlencoded", 400),
        (b"{}", "application/json", 400),
        (b"", "application/x-www-form-urlencoded", 401),
    ],
)
async def test_a_form_that_is_none_is_refused(tmp_path, body, kind, status):
    async with open_server(tmp_path) as server:
        request = urllib.request.Request(f"{server.url}/pages/login", body, {"Content-Type": kind})
        with pytest.raises(urllib.error.HTTPError) as raised:
            await in_thread(urllib.request.urlopen, request)
        assert raised.value.code == status
        raised.value.close()


def make_preview(shape, *, factor, covered):
    labels = np.zeros(shape, np.uint8)
    labels[shape[0] // 2, 1:3] = 2
    grid = VoxelGrid(shape=shape, voxel_size=(10.0, 10.0, 10.0))
    return Preview.pack(labels, sequence=1, factor=factor, grid=grid, covered=covered, provisional=True), labels


def test_the_picture_is_the_middle_of_what_is_covered_in_the_colours_of_the_labels():
    preview, labels = make_preview((9, 4, 5), factor=3, covered=Region(start=(0, 0, 0), stop=(27, 12, 15)))
    section = slices.middle_section(preview)
    assert np.array_equal(section, labels[4])
    picture = slices.draw_section(section, [Label(value=2, name="membrane", color="#ff8000")])
    with Image.open(BytesIO(picture)) as image:
        pixels = np.asarray(image.convert("RGB"))
    step = slices.SIDE // 5
    assert pixels.shape == (4 * step, 5 * step, 3)
    assert (pixels[::step, ::step][1:3] == (255, 128, 0)).all()
    assert (pixels[::step, ::step][0] == slices.BACKGROUND).all()


def test_a_picture_of_a_large_section_is_thinned_out():
    section = np.full((700, 1300), 3, np.uint16)
    with Image.open(BytesIO(slices.draw_section(section, []))) as image:
        assert max(image.size) <= slices.SIDE


def test_of_a_preview_that_covers_only_the_beginning_that_beginning_is_shown():
    preview, labels = make_preview((9, 4, 5), factor=3, covered=Region(start=(0, 0, 0), stop=(6, 12, 15)))
    assert np.array_equal(slices.middle_section(preview), labels[0])
