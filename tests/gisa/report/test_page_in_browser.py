"""The page of a run, used as a reader would in headless Chromium, opened from its file."""

import json
import os
import shutil

import pytest

from src.gisa.dataset.gisa import Gisa
from src.gisa.report.page import write_page
from tests.gisa.gisa_files import question, write_suite
from tests.gisa.report.page_run import episode, reply, search, visit, write_run

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1300,1000",
)  # fmt: skip
ATTACK = "window.attacked=true"
HOSTILE = (
    f"<script>{ATTACK}</script><img src=x onerror='{ATTACK}'><svg onload={ATTACK}>"
    f"</script><script>{ATTACK}</script>--><!--<script></pre></style><a href='javascript:{ATTACK}'>here</a>"
    f'"><iframe srcdoc="<script>parent.{ATTACK}</script>"></iframe>\u2028\u2029{{{{data}}}} end'
)
TORN = f"\ud800{HOSTILE}"  # with half a surrogate pair, which files of questions cannot hold
HOSTILE_URL = f"javascript:{ATTACK}//https://example.org/<b onmouseover={ATTACK}>"
QUESTIONS = [
    question(1, "table", topic="rivers", text="Which rivers are long?",
             answer=[["River", "Length"], ["Amber", "10"], ["Birch", "20"], ["Copper", "30"]]),
    question(2, "set", topic="comets", text="Which comets are known?", answer=[["Encke"], ["Halley"]], stable=False),
    question(3, "list", topic="rivers", text="Which bridges, the oldest first?", answer=[["Old"], ["New"], ["Newer"]]),
    question(4, "item", topic=HOSTILE, text=HOSTILE, answer=[[HOSTILE]]),
    question(5, "item", topic="comets", text="Which one is lost?", answer=[["Biela"]], trace=False),
]  # fmt: skip
EPISODES = [
    episode(1, [reply(0, "I look it up.", ("search", '{"query": "long rivers"}')),
                search(0, "long rivers", "1. Rivers\nhttps://example.org/1", ["https://example.org/1"]),
                reply(1, "", ("visit", '{"url": ["https://example.org/1/"]}'), reasoning_content="It must be there."),
                visit(1, "https://example.org/1/", "Amber is 10 long." + 9000 * "."),
                reply(2, "Done.")],
            "```tsv\nriver\tlength\nBirch\t20\nAmber\t11\nDelta\t40\n```"),
    episode(2, [reply(0, "```tsv\nComet\nHalley\nEncke\n```")], "```tsv\nComet\nHalley\nEncke\n```"),
    episode(3, [reply(0, "")], "", "budget", reason="the calls are used up"),
    episode(4, [reply(0, TORN, ("search", TORN), reasoning=TORN), search(0, TORN, TORN, [HOSTILE_URL]),
                visit(1, HOSTILE_URL, TORN)], f"```tsv\n{TORN}\n```", "refused", reason=TORN),
]  # fmt: skip


def missing_chromium():
    return [name for name in ("chromium", "chromedriver") if not shutil.which(name)]


def test_in_ci_chromium_is_there():
    """Elsewhere the tests below skip without it; in CI that must not go unnoticed."""
    assert os.environ.get("CI") != "true" or not missing_chromium()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    suite = Gisa(str(write_suite(folder / "suite", QUESTIONS)), show_questions=True)
    return write_page(folder, write_run(folder, suite, EPISODES), suite)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if missing := missing_chromium():
        pytest.skip(f"no {' and no '.join(missing)} here; on Debian: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.implicitly_wait(20)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium, page):
    """A reader's view of the page, freshly opened; afterwards nothing may have been complained about or fetched."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    logged(chromium)
    chromium.get(page.as_uri())
    yield Reader(chromium)
    assert chromium.get_log("browser") == []
    events = logged(chromium)
    sent = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
    assert {url.partition("#")[0] for url in sent} == {page.as_uri()}
    assert chromium.execute_script("return window.attacked") is None


def logged(driver):
    """What the network did since the last call."""
    return [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]


class Reader:
    """Looks, clicks and types."""

    def __init__(self, driver):
        self.driver = driver
        self.find("#list a")

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector):
        self.find(selector)
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
        return self.driver.execute_script(script, selector)

    def choose(self, menu, value):
        self.find(f"#{menu} option[value='{value}']").click()

    def listed(self):
        script = "return [...document.querySelectorAll('#list .about')].map((one) => one.innerText.split(' ')[0])"
        return self.driver.execute_script(script)

    def open(self, name):
        self.find(f"#list a[href='#q={name}']").click()
        self.find(f"#list a[href='#q={name}'][aria-current=true]")
        assert self.find("#detail h3").text == f"Question {name}"


def test_the_page_shows_scores_with_intervals_and_outcomes_beside_them(browser):
    assert browser.driver.title == "gisa_rollout: run on GISA"
    assert browser.texts("#facts dd")[0] == "ChatEndpoint m"
    # One of five is right: the set.
    assert browser.texts("#headline dd")[0].startswith("20.0%\n95% interval ")
    assert len(browser.texts("#plots svg")) == 3
    table = [text.split("\t") for text in browser.texts("#parts tr")]
    assert table[0][-5:] == ["right", "wrong", "budget", "missing", "refused"]
    assert table[1][0] == "all"
    assert table[1][-5:] == ["1", "1", "1", "1", "1"]
    assert ["set", "1", "100.0 [100.0, 100.0]"] in [row[:3] for row in table]
    assert "unpacking" not in browser.find("body").text.lower()


def test_questions_are_searched_and_filtered(browser):
    assert browser.listed() == ["1", "2", "3", "4", "5"]
    assert browser.find("#count").text == "5 of 5 questions"
    browser.find("#search").send_keys("RIVERS long")
    assert browser.listed() == ["1"]
    assert browser.find("#count").text == "1 of 5 questions"
    browser.find("#filters button[type=reset]").click()
    for menu, value, left in (
        ("result", "right", ["2"]),
        ("outcome", "budget", ["3"]),
        ("type", "item", ["4", "5"]),
        ("change", "live", ["2"]),
        ("topic", "comets", ["2", "5"]),
    ):
        browser.choose(menu, value)
        assert browser.listed() == left
        browser.choose(menu, "")
    browser.find("#search").send_keys("delta")  # which only the answer to the first one names
    assert browser.listed() == ["1"]


def test_a_trajectory_opens_with_messages_calls_results_and_costs(browser):
    browser.open(1)
    assert browser.texts("#detail blockquote") == ["Which rivers are long?"]
    steps = browser.texts("#detail .step")
    assert len(steps) == 6  # the question, three replies, two results
    assert "I look it up." in steps[1]
    assert 'calls search{"query": "long rivers"}' in steps[1].replace("\n", "")
    assert "1,000 tokens read, 50 written · 0.0010 USD · 0.5 s" in steps[1]
    assert "Amber is 10 long." not in steps[4]  # folded
    browser.find("#detail h4 button").click()
    steps = browser.texts("#detail .step")
    assert "https://example.org/1" in steps[2]
    assert "It must be there." in steps[3]
    assert "Amber is 10 long." in steps[4]
    assert "… 1,017 more characters are left out." in steps[4]  # 9,017 of them, of which 8,000 are kept
    facts = browser.find("#detail .facts").text.replace("\n", " ")
    assert "2 (1 searches, 1 visits)" in facts
    assert "2,000 + 100 tokens, 0.0020 USD" in facts
    assert "12.5 s" in facts


def test_the_human_trace_stands_beside_the_agents_and_shared_pages_are_marked(browser):
    browser.open(1)
    assert browser.texts("#detail .beside > div") == [
        "Agent: 2 steps\nsearch\nlong rivers\nvisit\nhttps://example.org/1/\n(visited by both)",
        "Human: 2 steps\nsearch\nnumber 1\nvisit\nhttps://example.org/1\n(visited by both)",
    ]
    browser.open(5)
    assert browser.texts("#detail .beside .empty") == ["Nothing recorded."] * 2


def test_the_answer_is_laid_over_the_gold_table_cell_by_cell(browser):
    def cells():
        script = "return [...document.querySelectorAll('.diff tbody td')].map((one) => [one.className, one.innerText])"
        return [(status, text.partition("\n")[0]) for status, text in browser.driver.execute_script(script)]

    browser.open(1)
    assert "2 of 6 gold cells right" not in browser.find("#detail").text
    assert "3 of 6 gold cells right · ≠ 1 wrong" in browser.find("#detail").text
    shown = browser.texts(".diff tbody tr")
    assert [text.split()[:2] for text in shown] == [["2", "1"], ["3", "–"], ["1", "2"], ["–", "3"]]
    browser.find(".diff td.changed del")
    assert browser.texts(".diff td.changed del") == ["11"]
    assert browser.texts(".diff td.changed ins") == ["10"]
    assert len(browser.texts(".diff td.missing")) == len(browser.texts(".diff td.extra")) == 2
    browser.open(3)
    assert [status for status, _ in cells() if status != "place"] == ["missing"] * 3
    assert "There is no answer." in browser.find("#detail").text
    browser.open(2)
    assert [status for status, _ in cells() if status != "place"] == ["same"] * 2


def test_previous_and_next_go_through_what_is_listed_and_the_address_leads_back(browser):
    browser.choose("topic", "comets")
    browser.open(2)
    buttons = "#detail .turn button"
    assert browser.find(f"{buttons}:first-child").get_attribute("disabled")
    browser.find(f"{buttons}:last-child").click()
    browser.find("#list a[href='#q=5'][aria-current=true]")
    assert browser.find("#detail h3").text == "Question 5"
    browser.driver.back()
    browser.find("#list a[href='#q=2'][aria-current=true]")
    assert browser.find("#detail h3").text == "Question 2"


def test_hostile_text_is_shown_and_does_nothing(browser):
    browser.open(4)
    browser.find("#detail h4 button").click()
    for element in ("#detail blockquote", "#detail .step.call pre", "#detail .step.reply pre", "#list .text"):
        literally = (
            "return [...document.querySelectorAll(arguments[0])].some((one) => one.textContent.endsWith(arguments[1]))"
        )
        assert browser.driver.execute_script(literally, element, HOSTILE), element
    assert (
        browser.driver.execute_script("return document.querySelectorAll('img, iframe, #detail a, #main script')") == []
    )


def test_were_hostile_text_markup_the_policy_would_still_forbid_it_to_run_and_to_load(chromium, page):
    chromium.get(page.as_uri())
    Reader(chromium)
    logged(chromium)
    chromium.execute_script("document.body.insertAdjacentHTML('afterbegin', arguments[0])", HOSTILE)
    chromium.execute_async_script("setTimeout(arguments[0], 100)")
    assert chromium.execute_script("return window.attacked") is None
    complaints = [entry["message"] for entry in chromium.get_log("browser")]
    assert complaints
    assert all("Content Security Policy" in text for text in complaints)
    events = logged(chromium)
    sent = {one["params"]["requestId"] for one in events if one["method"] == "Network.requestWillBeSent"}
    failed = [one["params"] for one in events if one["method"] == "Network.loadingFailed"]
    assert sent
    assert {one["requestId"] for one in failed if one.get("blockedReason") == "csp"} == sent
