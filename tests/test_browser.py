"""The report's page in a real browser: Debian's chromium, driven by Selenium. Skipped, with the reason, without one."""

import json
import shlex
import shutil
import time
from pathlib import Path

import axe_playwright_python
import numpy as np
import pytest
from pages import RECORD, make_evidence, make_page, make_result, make_study_page
from test_report import HOSTILE

from salrob_tf.reports.page import report
from salrob_tf.results.comparison import compare
from salrob_tf.results.storage import save_results
from salrob_tf.studies.pages import page_of_folders

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="the page is looked at in chromium: apt-get install chromium chromium-driver"
)
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")  # axe-core itself


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    except WebDriverException as error:
        pytest.skip(f"chromium does not start here: {str(error.msg)[:200]}")
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(make_page(), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def study_address(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "report.html"
    path.write_text(make_study_page(), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    show(browser, address)
    yield browser
    assert not [each for each in browser.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]


def show(browser, address):
    """Open a page as most see it, whatever was looked at before."""
    media(browser, "light")
    browser.set_window_size(1400, 900)
    browser.get(address)


def media(browser, scheme, kind="", motion="reduce"):
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": motion},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": features})


def at(page, name):
    return page.find_element(By.ID, name)


def click(page, element):
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def predictions(page):
    return [each.text for each in page.find_elements(By.CSS_SELECTOR, ".prediction")]


def shown_images(page):
    return [each.text for each in Select(at(page, "image")).options]


def test_it_asks_for_nothing_outside_itself(page):
    asked = page.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert all(each.startswith("data:") for each in asked)
    assert at(page, "verdict").text.startswith("These two networks")


def test_controls_by_mouse(page):
    assert len(shown_images(page)) == 6 and all(each.startswith("✓ zero") for each in predictions(page))
    click(page, at(page, "next"))
    assert Select(at(page, "image")).first_selected_option.text.startswith("2: one, test image 5")
    assert all(each.startswith("✓ one") for each in predictions(page))
    click(page, at(page, "previous"))
    click(page, at(page, "previous"))
    assert Select(at(page, "image")).first_selected_option.text.startswith("6: ")
    Select(at(page, "image")).select_by_index(0)
    Select(at(page, "attack")).select_by_visible_text("pgd")
    slide(page, 2)
    assert at(page, "radius").text == "0.2"
    first, second = predictions(page)
    assert first.startswith("✗ one") and "in truth zero" in first and second.startswith("✓ zero")
    assert "pgd, epsilon 0.2" in at(page, "told").text


def slide(page, step):
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    page.execute_script(script, at(page, "epsilon"), step)


def test_filters(page):
    slide(page, 2)
    Select(at(page, "filter")).select_by_visible_text("broken only in regular-0")
    assert [each[0] for each in shown_images(page)] == ["1"]
    Select(at(page, "filter")).select_by_visible_text("broken only in guided-0")
    assert shown_images(page) == [] and "No image is like this" in at(page, "told").text
    assert not at(page, "views").is_displayed() and not at(page, "next").is_enabled()
    slide(page, 3)
    assert [each[0] for each in shown_images(page)] == ["2"] and at(page, "views").is_displayed()
    Select(at(page, "filter")).select_by_visible_text("most surprising first")
    assert [each[0] for each in shown_images(page)] == ["1", "2", "3", "4", "5", "6"]


def test_controls_by_keyboard(page):
    slider = at(page, "epsilon")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert at(page, "radius").text == "0.2" and slider.get_attribute("aria-valuetext") == "0.2"
    slider.send_keys(Keys.HOME)
    assert at(page, "radius").text == "0"
    at(page, "next").send_keys(Keys.ENTER)
    assert Select(at(page, "image")).first_selected_option.text.startswith("2")
    at(page, "attack").send_keys(Keys.ARROW_DOWN)
    assert Select(at(page, "attack")).first_selected_option.text == "pgd"
    at(page, "image").send_keys(Keys.ARROW_DOWN)
    assert Select(at(page, "image")).first_selected_option.text.startswith("3")
    at(page, "filter").send_keys(Keys.END)
    assert Select(at(page, "filter")).first_selected_option.text.startswith("most")
    page.execute_script("""document.activeElement.blur(); window.scrollTo(0, 0); window.reached = [];
      document.addEventListener("focusin", (event) => { window.reached.push(event.target.id); });""")
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB * 80)
    reached = page.execute_script("return window.reached")
    assert {"filter", "image", "previous", "next", "attack", "epsilon"} <= set(reached)


def test_numbers_lead_to_images(page):
    link = page.find_element(By.CSS_SELECTOR, "a[data-attack='pgd'][data-epsilon='0.3']")
    click(page, link)
    assert at(page, "radius").text == "0.3" and Select(at(page, "attack")).first_selected_option.text == "pgd"
    click(page, page.find_element(By.CSS_SELECTOR, "a[data-attack='pgd'][data-epsilon='0']"))
    assert at(page, "radius").text == "0" and all(each.startswith("✓") for each in predictions(page))
    point = page.find_element(By.CSS_SELECTOR, "svg [data-attack='fgsm'][data-epsilon='0.2']")
    click(page, point)
    assert at(page, "radius").text == "0.2" and Select(at(page, "attack")).first_selected_option.text == "fgsm"


def test_the_worst_of_all_is_of_each_image_the_first_attack_that_breaks_it(page):
    click(page, page.find_element(By.CSS_SELECTOR, "a[data-attack='worst of all'][data-epsilon='0.2']"))
    assert at(page, "radius").text == "0.2" and "worst of all, epsilon 0.2" in at(page, "told").text
    data = json.loads(page.execute_script("return document.getElementById('payload').textContent"))
    for row, label in enumerate(data["labels"]):
        Select(at(page, "image")).select_by_value(str(row))
        for network, said in enumerate(predictions(page)):
            wrong = [data["predicted"][network][which][2][row] != label for which in range(2)]
            by = wrong.index(True) if any(wrong) else 0
            assert said.startswith("✗" if any(wrong) else "✓") and said.endswith(f", by {data['attacks'][by]}")


def test_tiles_show_the_place_in_the_sheet(page):
    slide(page, 1)
    click(page, at(page, "next"))
    tiles = page.find_elements(By.CSS_SELECTOR, ".tile")
    assert len(tiles) == 6
    for tile in tiles:
        style = tile.value_of_css_property
        assert style("background-image").startswith('url("data:image/png;base64,')
        assert style("background-position") == "20% 33.3333%" and style("background-size") == "600% 400%"
    assert len({tile.value_of_css_property("background-image") for tile in tiles}) == 6
    hatches = page.find_elements(By.CSS_SELECTOR, ".tile .hatch")
    assert len({each.value_of_css_property("mask-image") for each in hatches}) == len(hatches) == 4
    for hatch in hatches:
        assert hatch.value_of_css_property("mask-position") == "20% 33.3333%"
        assert hatch.value_of_css_property("mask-size") == "600% 400%" and hatch.size["height"] > 30


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 800, 390])
def test_nobody_is_left_out(page, scheme, width):
    look_for_barriers(page, scheme, width)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 1400), ("light", 390)])
def test_nobody_is_left_out_of_a_study(browser, study_address, scheme, width):
    show(browser, study_address)
    look_for_barriers(browser, scheme, width)
    assert len(browser.find_elements(By.CSS_SELECTOR, ".missing")) == 2
    assert at(browser, "specifications").is_displayed() and not browser.find_elements(By.ID, "controls")


def look_for_barriers(page, scheme, width):
    media(page, scheme)
    page.set_window_size(width, 900)
    page.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.execute_script(AXE)
    found = page.execute_async_script("axe.run(document).then(arguments[0], arguments[0])")
    assert found["passes"], found
    assert not [(each["id"], each["nodes"][0]["html"], each["help"]) for each in found["violations"]]
    wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.execute_script(wide), "only tables scroll sideways"


def test_print_has_no_controls(page):
    media(page, "dark", "print")
    assert not at(page, "controls").is_displayed() and at(page, "verdict").is_displayed()
    assert page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color") == "rgba(255, 255, 255, 1)"


@pytest.mark.parametrize("kind", ["pair", "study"])
def test_print_opens_what_is_closed(browser, address, study_address, kind):
    show(browser, {"pair": address, "study": study_address}[kind])
    closed = "document.querySelectorAll('details:not([open])').length"
    before = browser.execute_script(f"return {closed}")
    browser.execute_script(f"window.addEventListener('beforeprint', () => {{ window.left = {closed}; }})")
    browser.execute_cdp_cmd("Page.printToPDF", {})
    assert before > 1 and browser.execute_script(f"return [window.left, {closed}]") == [0, before]


def test_hostile_names_are_text(browser, tmp_path):
    path = tmp_path / "hostile.html"
    record = {**RECORD, "data": {**RECORD["data"], "name": HOSTILE[0]}}
    record["arguments"] = {"data": HOSTILE[0], HOSTILE[2]: [HOSTILE[1]]}
    path.write_text(make_page(HOSTILE[:2], HOSTILE, record), encoding="utf-8")
    show(browser, path.as_uri())
    assert browser.title.startswith(HOSTILE[0]) and HOSTILE[0] in at(browser, "told").text
    assert [each.text for each in browser.find_elements(By.CSS_SELECTOR, ".view h3")] == list(HOSTILE[:2])
    assert HOSTILE[0] in " ".join(predictions(browser))
    command = browser.find_element(By.CSS_SELECTOR, "pre").text
    assert shlex.split(command) == [
        "python",
        "scripts/reproduce.py",
        "--data",
        HOSTILE[0],
        f"--{HOSTILE[2]}",
        HOSTILE[1],
    ]
    nothing_ran(browser)


def nothing_ran(browser):
    """No name became an element, or a script that called `alert`, of which Selenium would tell."""
    assert len(browser.find_elements(By.TAG_NAME, "script")) <= 2 and not browser.find_elements(By.TAG_NAME, "img")
    assert not browser.find_elements(By.CSS_SELECTOR, "[onload], [onerror], b")
    time.sleep(0.1)
    assert not [each for each in browser.get_log("browser") if each["level"] == "SEVERE"]


def test_hostile_ways_of_training_are_text(browser, tmp_path):
    path = tmp_path / "hostile.html"
    ways = ("regular", f"{HOSTILE[0]} {HOSTILE[2]}", f"x {HOSTILE[2]}<b>{HOSTILE[0]}")
    path.write_text(make_study_page(ways, missing=HOSTILE), encoding="utf-8")
    show(browser, path.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    cells = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#specifications ~ details :is(th, td)")]
    assert {*ways[1:], *HOSTILE[2].split("="), f'"alert(2)<b>{HOSTILE[0]}'} <= set(cells)
    head = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#measures ~ .wide th[scope=col]")]
    assert head == ["measure", *ways, *(f"difference, {way}" for way in ways[1:])]
    assert [each.text for each in browser.find_elements(By.CSS_SELECTOR, ".missing")] == list(HOSTILE)
    assert ways[1] in at(browser, "verdict").text
    nothing_ran(browser)


def test_hostile_names_of_folders_are_text(browser, tmp_path):
    folders = [tmp_path / name for name in ("<img src=x onerror=alert(1)>", '"onload="alert(2)<b>')]
    for seed, folder in enumerate(folders):
        save_results(folder, [make_result("regular-0", seed)], data_name="rows")
    page = tmp_path / "hostile.html"
    page.write_text(page_of_folders(folders), encoding="utf-8")
    show(browser, page.as_uri())
    assert folders[0].name in browser.find_element(By.CSS_SELECTOR, ".missing").text
    assert f"{folders[1].name} regular-0" in at(browser, "verdict").text
    nothing_ran(browser)


def test_names_from_right_to_left_move_nothing_around_them(browser, tmp_path):
    one, two, three = "\u05e9\u05dc\u05d5\u05dd", "\u05d0\u05d7\u05ea", "\u0645\u0627\u0621"
    path = tmp_path / "right.html"
    path.write_text(make_page((one, two), (three, one, two)), encoding="utf-8")
    show(browser, path.as_uri())
    slide(browser, 3)
    assert [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#verdict bdi")] == [two, one]
    assert at(browser, "image").text.startswith(f"1: \u2068{three}\u2069, test image 0")
    places = """return [...document.querySelectorAll(arguments[0])].map((each) => {
      const { left, top } = each.getBoundingClientRect();
      return [Math.round(top), left];
    })"""
    for selector, count in {"#told bdi": 4, "#verdict bdi": 2, ".prediction bdi": 3}.items():
        found = browser.execute_script(places, selector)
        assert len(found) == count and found == sorted(found), "names follow one another from left to right"


def test_motion_is_left_out_for_those_who_ask(page):
    script = """document.querySelector("a[data-attack='pgd']").click();
      return [getComputedStyle(document.documentElement).scrollBehavior, window.scrollY];"""
    page.execute_script("window.scrollTo(0, 0)")
    behaviour, scrolled = page.execute_script(script)
    assert behaviour == "auto" and scrolled > 0, "it is there at once"
    media(page, "light", motion="no-preference")
    page.execute_script("window.scrollTo({ top: 0, behavior: 'instant' })")
    behaviour, scrolled = page.execute_script(script)
    assert behaviour == "smooth" and scrolled == 0, "it is on its way"


def test_a_large_page_is_light_and_its_slider_changes_little_of_it(browser, tmp_path):
    attacks, epsilons = ("fgsm", "pgd", *(f"attack-{number}" for number in range(4))), np.linspace(0.02, 0.3, 10)
    results = [make_result(f"network {n}", n, attacks, 2000, epsilons) for n in range(10)]
    names = tuple(each.model for each in results[:4])
    evidence = make_evidence(names, ("a", "b"), 12, (28, 28, 1), epsilons=epsilons)
    comparisons = [compare(results[0], each) for each in results[1:]]
    path = tmp_path / "large.html"
    path.write_text(report({each.model: [each] for each in results}, comparisons, RECORD, evidence), encoding="utf-8")
    assert path.stat().st_size < 10_000_000
    show(browser, path.as_uri())
    script = """const slider = document.getElementById("epsilon"), views = document.getElementById("views");
      const observer = new MutationObserver(() => {}), counts = [];
      observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
      for (let step = 0; step < 44; step += 1) {
        slider.value = step % 11;
        slider.dispatchEvent(new Event("input"));
        const size = (node) => 1 + (node.querySelectorAll ? node.querySelectorAll("*").length : 0);
        const work = (each) => 1 + [...each.addedNodes].reduce((sum, node) => sum + size(node), 0);
        const records = observer.takeRecords(), inside = records.filter((each) => views.contains(each.target));
        counts.push([records.length - inside.length, records.reduce((sum, each) => sum + work(each), 0)]);
      }
      return [...counts.reduce((most, each) => most.map((count, place) => Math.max(count, each[place]))),
        Math.min(...counts.slice(1).map((each) => each[1])), document.querySelectorAll("*").length];"""
    outside, work, least, elements = browser.execute_script(script)
    assert outside <= 5 and 0 < least <= work <= 100 < elements / 50, "a step changes the views, and little of them"
    assert at(browser, "radius").text == "0.3" and len(browser.find_elements(By.CSS_SELECTOR, ".view")) == 4
    assert not [each for each in browser.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]
