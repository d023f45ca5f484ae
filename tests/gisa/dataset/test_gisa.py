import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.dataset.gisa import Gisa, decrypt
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
