from hypothesis import given
from hypothesis import strategies as st

from src.gisa.dataset.gisa import Trace
from src.gisa.dataset.human import Step, human_trajectory

GOOGLE = "https://www.google.com/search?q="


def trace_of(searches, clicks, results=None):
    listed = {
        query: [{"page": 1, "results": [{"url": url} for url in urls]}] for query, urls in (results or {}).items()
    }
    return Trace.model_validate(
        {"search": searches, "result": listed, "click": [{"from": source, "to": target} for source, target in clicks]}
    )


def test_a_trace_with_chains_repeats_orphans_and_redirects_gives_the_steps_worked_by_hand():
    course = human_trajectory(
        trace_of(
            ["peru  Peaks", "andes", "peru peaks"],
            [
                # Clicked on the results of "peru peaks", through Google's redirect: the first of the two such searches.
                (f"{GOOGLE}Peru+peaks&hl=en", "https://www.google.com/url?sa=t&url=https://a.org/peru%3Futm_source%3Dx"),
                # From that page, written with another tracking parameter, on to the next: a chain; and one more link.
                ("https://A.org/peru/?gclid=1", "https://a.org/huascaran#top"),
                ("https://a.org/huascaran", "https://b.org/photo"),
                # Back to the first page of the search: a repeat, whatever its fragment.
                (f"{GOOGLE}peru+peaks", "https://a.org/peru?utm_medium=y#intro"),
                # No origin is known, but "andes" lists the page.
                ("", "https://c.org/andes"),
                # A click to another page of results is no visit.
                (f"{GOOGLE}andes", f"{GOOGLE}andes&start=10"),
                # From the results of a query that was never typed to a page that no search lists, and on from there.
                (f"{GOOGLE}bolivia", "https://d.org/bolivia"),
                ("https://d.org/bolivia", "https://d.org/la-paz"),
                # The last search has the query of the first; it is the next such one after "andes".
                ("https://www.google.co.uk/search?client=x&q=peru%20peaks", "https://a.org/peru"),
                # The page has been reached by the first search and by the last; the chain goes on from the last.
                ("https://a.org/peru", "https://a.org/yerupaja"),
            ],
            {"andes": ["https://c.org/andes/?fbclid=2"]},
        )
    )  # fmt: skip
    assert course.steps == [
        Step("search", "peru  Peaks", "typed"),
        Step("visit", "https://a.org/peru?utm_source=x", "results_page"),
        Step("visit", "https://a.org/huascaran#top", "chain"),
        Step("visit", "https://b.org/photo", "chain"),
        Step("search", "andes", "typed"),
        Step("visit", "https://c.org/andes", "listed"),
        Step("search", "peru peaks", "typed"),
        Step("visit", "https://a.org/peru", "results_page"),
        Step("visit", "https://a.org/yerupaja", "chain"),
    ]
    assert course.orphans == ["https://d.org/bolivia", "https://d.org/la-paz"]
    assert course.left_out == {"repeats": 1, "results_pages": 1}


def test_a_page_that_several_searches_list_belongs_to_the_next_of_them():
    both = {"one": ["https://x.org/"], "two": ["https://x.org"], "three": ["https://y.org"]}
    course = human_trajectory(
        trace_of(["one", "two", "three"], [(f"{GOOGLE}two", "https://z.org"), ("", "https://x.org")], both)
    )
    assert [step.what for step in course.steps] == ["one", "two", "https://z.org", "https://x.org", "three"]
    course = human_trajectory(
        trace_of(["one", "two", "three"], [(f"{GOOGLE}three", "https://y.org"), ("", "https://x.org")], both)
    )
    assert [step.what for step in course.steps] == ["one", "two", "https://x.org", "three", "https://y.org"]


def test_the_results_page_counts_for_more_than_the_lists():
    course = human_trajectory(trace_of(["one", "two"], [(f"{GOOGLE}two", "https://x.org")], {"one": ["https://x.org"]}))
    assert [step.what for step in course.steps] == ["one", "two", "https://x.org"]
    assert course.steps[2].evidence == "results_page"


def test_a_page_reached_again_as_an_orphan_starts_a_chain_of_orphans():
    clicks = [(f"{GOOGLE}one", "https://x.org"), ("https://y.org", "https://x.org"), ("https://x.org", "https://z.org")]
    course = human_trajectory(trace_of(["one"], clicks))
    assert course.orphans == ["https://x.org", "https://z.org"]


URLS = st.sampled_from(
    ["https://x.org", "https://y.org/", "", "[", "http://[", f"{GOOGLE}a", f"{GOOGLE}b",
     "https://google.com/url?q=https://x.org"]
)  # fmt: skip


@given(st.lists(st.sampled_from("abA"), max_size=4), st.lists(st.tuples(URLS, URLS), max_size=8), URLS)
def test_every_click_is_a_step_an_orphan_or_left_out(searches, clicks, listed):
    course = human_trajectory(trace_of(searches, clicks, {"a": [listed]}))
    assert [step.what for step in course.steps if step.kind == "search"] == searches
    visits = len(course.steps) - len(searches)
    assert visits + len(course.orphans) + course.left_out.total() == len(clicks)
    assert not visits or course.steps[0].kind == "search"
