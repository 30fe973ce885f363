"""The page in a browser, as a person uses it: `make test-page`."""

import os
import shutil
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from servers import picture, process, thread

from sensorium.diagnostics.diagnosis import diagnose
from sensorium.search.building import index_rows
from sensorium.search.index import Index
from sensorium.training.run import train

pytestmark = pytest.mark.page

OPTIONS = {"workers": 0, "batch_size": 32, "validation_rows": 8}
THINGS = "playground:scenes?objects=1&pictures=8&train=200&validation=8&test=8&size=32"
MAJORITY = "playground:majority?train=48&validation=8&test=32&size=32"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """An index of things, by a run that has learned them."""
    folder = tmp_path_factory.mktemp("page")
    train("dual-encoder", THINGS, out=folder / "eye", task="retrieval", options=OPTIONS,
          settings={"width": 64, "depth": 2, "embed_dim": 32}, budget="60steps", device="cpu")  # fmt: skip
    index_rows(folder / "eye", THINGS, folder / "things.index")
    return folder / "things.index"


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    """A run with a diagnosis, of which nothing can be asked here."""
    folder = tmp_path_factory.mktemp("page") / "visits"
    run = train("late-fusion", MAJORITY, out=folder, task="classification", options=OPTIONS,
                settings={"width": 32}, budget="5steps", device="cpu")  # fmt: skip
    diagnose(run)
    return folder


@pytest.fixture(scope="module")
def address(found, visits, assistant):
    with process(found, visits, assistant) as (address, _):
        yield address


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        "window-size=1100,1000",
    ):
        options.add_argument(f"--{argument}")
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver
        said = [line["message"] for line in driver.get_log("browser")]
        assert not [line for line in said if "Content Security Policy" in line], said


def until(browser, condition):
    return WebDriverWait(browser, 30).until(condition)


def see(browser, css):
    """The elements, once one can be seen."""

    def shown(_):
        elements = browser.find_elements(By.CSS_SELECTOR, css)
        return elements if any(each.is_displayed() for each in elements) else None

    return until(browser, shown)


def keep(browser, name):
    """A screenshot, where the environment asks for one."""
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def keys_shown(browser):
    # in one step, since they may be exchanged meanwhile
    return browser.execute_script(
        "return [...document.querySelectorAll('#search .found .key')].map(each => each.textContent)"
    )


def test_a_text_and_a_picture_find_what_the_index_finds(browser, address, found, tmp_path):
    index = Index(found)
    model = index.model(device="cpu")
    browser.get(address)
    (field,) = see(browser, "#search input[name=text]")
    words = index.search(model.ask({"text": "dog"}), limit=1)[0].text.split()[0]
    field.send_keys(words + Keys.ENTER)
    see(browser, "#search .found li")
    expected = index.search(model.ask({"text": words}), limit=24)
    assert keys_shown(browser) == [hit.key for hit in expected]
    assert all(words in hit.text for hit in expected[:3])  # it has learned what it was told
    pictures = browser.find_elements(By.CSS_SELECTOR, "#search .found img")
    assert all(int(each.get_property("naturalWidth")) >= 32 for each in pictures) and pictures
    keep(browser, "search")

    asked = next(hit for hit in expected if hit.picture)
    file = tmp_path / "asked.webp"
    file.write_bytes(asked.picture)
    field.clear()
    browser.find_element(By.CSS_SELECTOR, "#search input[type=file]").send_keys(str(file))
    assert see(browser, "#search .chosen img")[0].is_displayed()
    browser.find_element(By.CSS_SELECTOR, "#search button:not([type])").click()
    by_picture = index.search(model.ask({"image": asked.picture}), limit=24)
    until(browser, lambda _: keys_shown(browser) == [hit.key for hit in by_picture])
    keep(browser, "picture")


def test_conditions_hold_and_mistakes_are_shown_as_text(browser, address):
    browser.get(address)
    (field,) = see(browser, "#search input[name=text]")
    where = browser.find_element(By.CSS_SELECTOR, "#search input[name=where]")
    where.send_keys("split = 'test'")
    field.send_keys("dog" + Keys.ENTER)
    see(browser, "#search .found li")
    splits = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#search .found dd")]
    assert splits.count("test") == len(keys_shown(browser)) == 8
    where.clear()
    where.send_keys("<img src=x onerror=alert(1)>" + Keys.ENTER)
    (problem,) = see(browser, "#problem")
    assert "condition" in problem.text and not problem.find_elements(By.CSS_SELECTOR, "img")


def test_a_conversation_goes_on_and_begins_anew(browser, address, tmp_path):
    file = tmp_path / "shown.png"
    file.write_bytes(picture(3))
    browser.get(f"{address}/#chat")
    (field,) = see(browser, "#chat input[name=text]")
    browser.find_element(By.CSS_SELECTOR, "#chat input[type=file]").send_keys(str(file))
    for number, text in enumerate(("What is there?", "Is it <b>red</b>?"), start=1):
        field.send_keys(text + Keys.ENTER)
        done = "#chat form button:not([type]):not(:disabled)"
        until(browser, lambda _: len(see(browser, "#chat .talk li")) == 2 * number)  # noqa: B023
        see(browser, done)
        until(browser, lambda _: field.get_property("value") == "")
    lines = browser.find_elements(By.CSS_SELECTOR, "#chat .talk li")
    assert lines[2].text == "Is it <b>red</b>?" and lines[0].find_elements(By.TAG_NAME, "img")
    asked = {
        "model": "talker",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is there?"}]}],
    }
    asked["messages"][0]["content"].insert(
        0,
        {
            "type": "image_url",
            "image_url": {"url": lines[0].find_element(By.TAG_NAME, "img").get_attribute("src")},
        },
    )
    answer = httpx.post(f"{address}/v1/chat/completions", json=asked, timeout=60).json()
    said = answer["choices"][0]["message"]["content"]
    assert lines[1].get_property("textContent") == said
    keep(browser, "chat")
    browser.find_element(By.CSS_SELECTOR, "#chat [name=anew]").click()
    assert not browser.find_elements(By.CSS_SELECTOR, "#chat .talk li")


def test_importance_can_be_read(browser, address, visits):
    browser.get(f"{address}/#results")
    (choice,) = see(browser, "#results select")
    Select(choice).select_by_visible_text("visits")
    figures = see(browser, "#results figure")
    captions = [each.text for each in figures]
    (plot,) = [each for each, text in zip(figures, captions, strict=True) if "Shapley" in text]
    size = plot.find_element(By.TAG_NAME, "svg").size
    assert size["width"] > 200 and size["height"] > 50
    report = browser.find_element(By.CSS_SELECTOR, "#results .report").text
    for name in ("image", "table", "sound", "accuracy"):
        assert name in report
    keep(browser, "importance")


def test_all_systems_are_listed(browser, address):
    from sensorium.systems.registry import list_systems

    browser.get(address)
    see(browser, "#search input[name=text]")
    browser.find_element(By.CSS_SELECTOR, '.tabs a[href="#systems"]').click()
    names = [each.text for each in see(browser, "#systems tbody th")]
    assert names == list(list_systems())
    keep(browser, "systems")


def test_with_a_token_nothing_is_shown_before_it_is_given(browser, found):
    with thread([found], token="a token of tests") as address:
        browser.get(address)
        (field,) = see(browser, "#token input")
        assert not browser.find_element(By.ID, "search").is_displayed()
        assert "things.index" not in browser.page_source
        field.send_keys("another token" + Keys.ENTER)
        see(browser, "#problem")
        field.clear()
        field.send_keys("a token of tests" + Keys.ENTER)
        (text,) = see(browser, "#search input[name=text]")
        text.send_keys("dog" + Keys.ENTER)
        see(browser, "#search .found li")
