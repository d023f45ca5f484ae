import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.dataset.gisa import Gisa, Step, Trace, decrypt, human_trajectory
from src.launch.errors import InputError
from tests.gisa.gisa_files import encrypt, question, trace, write_csv, write_suite

QUESTIONS = [
    question(7, "item", text="Where is Zoë?", answer=[["Oslo"]]),
    question(12, "table", stable=False, topic="comets", answer=[["Name", "Year"], ["Encke", "1786"]]),
]


@pytest.fixture
def root(tmp_path):
    return write_suite(tmp_path / "gisa", QUESTIONS)


def test_a_question_is_decrypted_by_xor_with_the_hash_of_its_canary():
    # SHA-256 of "abc" starts with ba 78 (FIPS 180-2). "AB" is 41 42; 41 ^ ba = fb, 42 ^ 78 = 3a; base64 of fb 3a.
    assert decrypt("+zo=", "abc") == "AB"


def test_the_key_starts_over_after_its_32_bytes():
    # The 33rd byte meets the first one of the key again: fb ^ ba = 41, an A.
    encrypted = base64.b64decode(encrypt("A" * 33, "abc"))
    assert encrypted[0] == encrypted[32] == 0xFB
    assert decrypt(base64.b64encode(encrypted).decode(), "abc") == "A" * 33


@given(st.text(), st.text())
def test_what_is_encrypted_is_decrypted(text, password):
    assert decrypt(encrypt(text, password), password) == text


@pytest.mark.parametrize("encrypted", [True, False])
def test_encrypted_and_plain_questions_load_alike(tmp_path, encrypted):
    suite = Gisa(str(write_suite(tmp_path, QUESTIONS, encrypted=encrypted)))
    first, second = suite.questions
    assert (first.id, first.text, first.answer_type, first.question_type) == ("7", "Where is Zoë?", "item", "stable")
    assert (second.id, second.question_type, second.topic) == ("12", "live", "comets")
    assert suite.gold(second) == b"Name,Year\nEncke,1786\n"
    assert suite.remarks() == []


def test_the_text_of_a_question_is_not_shown_with_it(root):
    assert "Zoë" not in repr(Gisa(str(root)).questions)


def rewrite(root, name="encrypted_question.jsonl", **changes):
    path = root / name
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1] |= changes
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": None}, "id=None must be a whole number, or text"),
        ({"id": True}, "id=True must be a whole number, or text"),
        ({"id": "../x"}, "id='../x' must be a whole number, or text"),
        ({"answer_type": "essay"}, "answer_type='essay' must be one of item, set, list, table"),
        ({"question_type": None}, "question_type=None must be one of stable, live"),
        ({"topic": 3}, "topic must be text, and is int"),
        ({"question": None}, "question must be text, and is NoneType"),
        ({"canary": None}, "canary must be text, and is NoneType"),
        ({"canary": "another"}, "question 12 cannot be decrypted with the canary of its line"),
        ({"question": "no base64!"}, "question 12 cannot be decrypted with the canary of its line"),
    ],
)
def test_a_faulty_line_is_named_without_showing_question_or_canary(root, changes, message):
    rewrite(root, **changes)
    with pytest.raises(InputError) as caught:
        Gisa(str(root))
    assert f"encrypted_question.jsonl, line 2: {message}" in str(caught.value)
    for secret in ("canary of 12", "Which one is number 12?", "another", "no base64!"):
        assert secret not in str(caught.value)


def test_two_questions_may_not_share_an_id_whether_written_as_number_or_text(root):
    rewrite(root, id="7", question=encrypt("x", "canary of 12"))
    with pytest.raises(InputError, match="several questions with the id 7; I need each id once"):
        Gisa(str(root))


def test_a_folder_without_questions_is_refused_with_what_is_needed(tmp_path):
    with pytest.raises(InputError, match=r"encrypted_question\.jsonl or question\.jsonl, below dataset\.root"):
        Gisa(str(tmp_path))


def test_missing_and_extra_files_are_named(root):
    (root / "answer" / "7.csv").unlink()
    (root / "answer" / "8.csv").write_text("x")
    (root / "answer" / "notes.txt").write_text("x")
    (root / "trace" / "12.json").unlink()
    (root / "trace" / "07.json").write_text("{}")
    (root / "trace" / ".hidden").write_text("")
    write_csv(root / "snapshot" / "2026-01-01" / "7.csv", [["Oslo"]])
    suite = Gisa(str(root))
    assert suite.remarks() == [
        "answer/7.csv is missing", "answer/8.csv is extra", "answer/notes.txt is extra",
        "trace/12.json is missing", "trace/07.json is extra",
        "2026-01-01/7.csv is extra",  # the answer to a stable question has no date
    ]  # fmt: skip
    assert suite.gold(suite.questions[0]) == b""


def test_a_copy_without_traces_has_one_remark(tmp_path):
    suite = Gisa(str(write_suite(tmp_path, [question(7, trace=False), question(8, trace=False)])))
    assert suite.remarks() == ["trace/ is missing"]


def test_answers_in_other_encodings_are_named(root):
    (root / "answer" / "7.csv").write_bytes("Zürich".encode("cp1252"))
    (root / "answer" / "12.csv").write_bytes(b"\x81\xff")
    assert Gisa(str(root)).remarks() == [
        "answer/7.csv: read as cp1252, as it is not UTF-8",
        "answer/12.csv: the bytes are not text in any of utf-8-sig, cp1252, gbk",
    ]


def test_a_byte_order_mark_needs_no_remark(root):
    (root / "answer" / "7.csv").write_bytes("Zürich".encode("utf-8-sig"))
    assert Gisa(str(root)).remarks() == []


@pytest.fixture
def dated(root):
    write_csv(root / "snapshot" / "2026-01-01" / "12.csv", [["Name", "Year"], ["Encke", "1790"]])
    write_csv(root / "snapshot" / "2026-06-01" / "12.csv", [["Name", "Year"], ["Encke", "1795"]])
    (root / "snapshot" / "2026-09-01").mkdir()
    (root / "snapshot" / "drafts").mkdir()
    return root


@pytest.mark.parametrize(
    ("day", "year"), [(None, b"1786"), ("2026-01-01", b"1790"), ("2026-06-01", b"1795"), ("2026-09-01", b"1795")]
)
def test_a_live_question_has_the_latest_answer_up_to_the_snapshot(dated, day, year):
    suite = Gisa(str(dated), day)
    assert year in suite.gold(suite.questions[1])
    assert suite.gold(suite.questions[0]) == b"Oslo\n"


def test_an_unknown_snapshot_is_answered_with_those_there_are(dated, root):
    with pytest.raises(InputError, match="holds 2026-01-01, 2026-06-01, 2026-09-01"):
        Gisa(str(dated), "2026-01-02")


def test_a_suite_without_snapshots_says_so(root):
    with pytest.raises(InputError, match=r"dataset\.snapshot=2026-01-01: .*snapshot holds nothing"):
        Gisa(str(root), "2026-01-01")


def test_the_fingerprint_follows_the_answers_that_count_and_not_the_order(dated, tmp_path):
    published, dated_suite = Gisa(str(dated)), Gisa(str(dated), "2026-01-01")
    turned = Gisa(str(write_suite(tmp_path / "turned", QUESTIONS[::-1], encrypted=False)))
    assert published.fingerprint == turned.fingerprint
    assert published.fingerprint != dated_suite.fingerprint


def test_a_trace_holds_searches_hits_and_clicks(root):
    suite = Gisa(str(root))
    found = suite.trace(suite.questions[0])
    assert found.searches == ["number 7"]
    assert found.results["number 7"][0].results[0].title == "Numbers"
    assert (found.clicks[0].source, found.clicks[0].target) == (
        "https://www.google.com/search?q=number 7", "https://example.org/7",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda one: one.pop("search"), "search: Field required"),
        (lambda one: one["click"][0].pop("to"), "click.0.to: Field required"),
        (
            lambda one: one.update(result={"q": [{"page": 1, "results": [{}]}]}),
            "result.q.0.results.0.url: Field required",
        ),
        (lambda one: one.update(search="number 7"), "search: Input should be a valid list"),
    ],
)
def test_a_faulty_trace_is_named_with_the_place_and_the_form_that_is_needed(root, change, place):
    content = trace(QUESTIONS[0])
    change(content)
    (root / "trace" / "7.json").write_text(json.dumps(content))
    suite = Gisa(str(root))
    with pytest.raises(InputError) as caught:
        suite.trace(suite.questions[0])
    assert f"7.json: {place} (1 fault(s))" in str(caught.value)
    assert "click [{from, to}]" in str(caught.value)


def test_a_missing_trace_is_named(root):
    (root / "trace" / "7.json").unlink()
    suite = Gisa(str(root))
    with pytest.raises(InputError, match="I need the human trace of question 7"):
        suite.trace(suite.questions[0])


GOOGLE = "https://www.google.com/search?q="


def trace_of(searches, clicks, results=None):
    listed = {
        query: [{"page": 1, "results": [{"url": url} for url in urls]}] for query, urls in (results or {}).items()
    }
    return Trace.model_validate(
        {"search": searches, "result": listed, "click": [{"from": source, "to": target} for source, target in clicks]}
    )


def test_a_trace_with_chains_repeats_orphans_and_redirects_gives_the_steps_worked_by_hand():
    trajectory = human_trajectory(
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
    assert trajectory.steps == [
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
    assert trajectory.orphans == ["https://d.org/bolivia", "https://d.org/la-paz"]
    assert trajectory.left_out == {"repeats": 1, "results_pages": 1}


def test_a_page_that_several_searches_list_belongs_to_the_next_of_them():
    both = {"one": ["https://x.org/"], "two": ["https://x.org"], "three": ["https://y.org"]}
    trajectory = human_trajectory(
        trace_of(["one", "two", "three"], [(f"{GOOGLE}two", "https://z.org"), ("", "https://x.org")], both)
    )
    assert [step.what for step in trajectory.steps] == ["one", "two", "https://z.org", "https://x.org", "three"]
    trajectory = human_trajectory(
        trace_of(["one", "two", "three"], [(f"{GOOGLE}three", "https://y.org"), ("", "https://x.org")], both)
    )
    assert [step.what for step in trajectory.steps] == ["one", "two", "https://x.org", "three", "https://y.org"]


def test_the_results_page_counts_for_more_than_the_lists():
    trajectory = human_trajectory(
        trace_of(["one", "two"], [(f"{GOOGLE}two", "https://x.org")], {"one": ["https://x.org"]})
    )
    assert [step.what for step in trajectory.steps] == ["one", "two", "https://x.org"]
    assert trajectory.steps[2].evidence == "results_page"


def test_a_page_reached_again_as_an_orphan_starts_a_chain_of_orphans():
    clicks = [(f"{GOOGLE}one", "https://x.org"), ("https://y.org", "https://x.org"), ("https://x.org", "https://z.org")]
    trajectory = human_trajectory(trace_of(["one"], clicks))
    assert trajectory.orphans == ["https://x.org", "https://z.org"]


URLS = st.sampled_from(
    ["https://x.org", "https://y.org/", "", "[", "http://[", f"{GOOGLE}a", f"{GOOGLE}b",
     "https://google.com/url?q=https://x.org"]
)  # fmt: skip


@given(st.lists(st.sampled_from("abA"), max_size=4), st.lists(st.tuples(URLS, URLS), max_size=8), URLS)
def test_every_click_is_a_step_an_orphan_or_left_out(searches, clicks, listed):
    trajectory = human_trajectory(trace_of(searches, clicks, {"a": [listed]}))
    assert [step.what for step in trajectory.steps if step.kind == "search"] == searches
    visits = len(trajectory.steps) - len(searches)
    assert visits + len(trajectory.orphans) + trajectory.left_out.total() == len(clicks)
    assert not visits or trajectory.steps[0].kind == "search"
