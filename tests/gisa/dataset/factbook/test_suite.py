import hashlib
import re
from collections import Counter

import pytest

from src.gisa.dataset.factbook.corpus import read_html
from src.gisa.dataset.factbook.pages import factbook_web
from src.gisa.dataset.factbook.records import FIRST, LATER, is_for_training
from src.gisa.dataset.factbook.suite import encrypt, factbook, factbook_set, trace_of
from src.gisa.dataset.gisa import decrypt
from src.gisa.metrics.answers import official_score
from src.launch.errors import InputError


def test_the_suite_has_all_types_topics_splits_and_lengths_of_way(suite):
    assert len(suite) >= 300
    assert min(Counter(question.draft.family.answer_type for question in suite).values()) >= 70
    assert len({question.topic for question in suite}) >= 10
    assert Counter(question.is_live for question in suite)[True] >= 60
    assert set(Counter(question.split for question in suite)) == {"train", "entities", "families"}
    ways = Counter(len(question.pages) for question in suite)
    assert ways[1] >= 50
    assert sum(count for pages, count in ways.items() if pages >= 5) >= 80


def test_live_answers_change_from_day_to_day_and_others_do_not(suite):
    assert all((question.gold != question.later) == question.is_live for question in suite)


def test_nothing_of_the_test_questions_is_met_in_training(suite):
    names, families = {}, {}
    for question in suite:
        slots = question.draft.slots
        about = [slots.get("a"), slots.get("group"), *slots.get("all", "").split(", ")]
        names.setdefault(question.split, set()).update(filter(None, about))
        families.setdefault(question.split, set()).add(question.draft.family.name)
    assert not names["train"] & names["entities"]
    assert all(map(is_for_training, names["train"]))
    assert not families["train"] & families["families"]


@pytest.mark.parametrize("day", [FIRST, LATER])
def test_no_page_gives_a_whole_answer_away_unless_one_page_is_the_way(suite, day):
    """A table's cells, or three entries and more that are most of a page's links, stand on no one page."""
    documents = factbook_web(day)._documents.values()
    pages = {document.url: read_html(document.html, document.url).text for document in documents}
    lists = {url: set(re.findall(r"\[(.*?)\]\(", text)) for url, text in pages.items()}
    for question in suite:
        gold = question.gold if day == FIRST else question.later
        cells = {cell for row in gold for cell in row}
        if len(question.pages) < 2 or len(cells) < 3:
            continue
        if question.draft.family.answer_type == "table":
            assert not [url for url, text in pages.items() if all(cell in text for cell in cells)]
        else:
            assert not [url for url, links in lists.items() if cells <= links and len(cells) > len(links) / 2]


def test_the_suite_is_still_the_one_that_was_published_first(suite):
    """Ids are places in the suite, so old runs can be scored as long as this holds."""
    content = repr([(question.draft.text, question.gold, question.later) for question in suite])
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == "1bc5df1d8d745f05"


def test_sets_have_every_type_of_answer_and_tables_of_all_sizes(sets):
    for split, questions in sets.items():
        assert set(Counter(question.draft.family.answer_type for question in questions).values()) == {45}
        assert {question.split for question in questions} == {split}
        assert max(len(question.pages) for question in questions) == 4
        assert len({question.draft.text for question in questions}) == len(questions)
    for split in ("train", "entities"):
        tables = [question.gold for question in sets[split] if question.draft.family.answer_type == "table"]
        sizes = {(len(rows), len(rows[0])) for rows in tables}
        assert sizes == {(rows, columns) for rows in (2, 3, 4) for columns in (2, 3, 4)}
        assert sum(len(rows) >= 3 and len(rows[0]) >= 3 for rows in tables) >= 12
    train = [question.draft for question in sets["train"]]
    assert {draft.family.name for draft in train} == {question.draft.family.name for question in sets["entities"]}
    assert all(len(draft.family.wordings) >= 8 for draft in train)


def test_training_reads_of_no_entity_and_meets_no_family_that_is_tested(sets):
    read = {split: {name for question in questions for name in question.entities} for split, questions in sets.items()}
    asked = {
        name
        for question in sets["families"]
        for name in (question.draft.slots.get("a"), *question.draft.slots.get("all", "").split(", "))
    }
    families = {split: {question.draft.family.name for question in questions} for split, questions in sets.items()}
    assert all(map(is_for_training, read["train"]))
    assert not read["train"] & (read["entities"] | asked)
    assert not families["train"] & families["families"]
    for question in sets["train"]:
        assert question.entities == list(dict.fromkeys(page.name for page in question.pages))


def test_a_set_lies_beside_the_suite_with_ids_of_its_own(cache):
    data = factbook_set("families", per_type=2)
    assert data.remarks() == []
    assert [question.id for question in data.questions] == [f"forms-{number}" for number in range(1, 9)]
    assert {one["split"] for one in data.metadata.values()} == {"families"}
    assert all(one["entities"] for one in data.metadata.values())
    assert data.root != factbook().root


def test_traces_click_their_way_to_every_page_in_order(suite):
    corpus = factbook_web(FIRST)
    for question in suite[::23]:
        trace = trace_of(question.pages, corpus)
        reached = [click["to"] for click in trace["click"]]
        wanted = [page.address for page in question.pages]
        assert [url for url in reached if url in wanted] == wanted
        for click in trace["click"]:
            from_results = click["from"].startswith("https://www.google.com/search?q=")
            assert from_results or click["from"] in reached
        assert list(trace["result"]) == list(dict.fromkeys(trace["search"]))


def test_the_suite_lies_in_the_published_layout_and_is_made_once(cache, suite):
    data = factbook()
    assert data.remarks() == []
    assert len(data.questions) == len(suite)
    for question, made in zip(data.questions, suite, strict=True):
        assert question.text == made.draft.text
        prediction = "\n".join("\t".join(row) for row in [made.draft.header, *made.gold])
        assert official_score(f"```tsv\n{prediction}\n```", data.gold(question), question.answer_type)["global_em"] == 1
    trace = data.trace(data.questions[0])
    assert trace.searches
    assert data.metadata["1"].keys() == {"family", "split", "hops", "entities", "slots"}
    before = {path: path.stat().st_mtime_ns for path in data.root.rglob("*.csv")}
    assert {path: path.stat().st_mtime_ns for path in factbook().root.rglob("*.csv")} == before


def test_another_snapshot_has_other_answers_for_live_questions_only(cache):
    first, later = factbook(), factbook(LATER)
    differing = {one.id for one in first.questions if first.gold(one) != later.gold(one)}
    assert differing == {one.id for one in first.questions if one.question_type == "live"}
    with pytest.raises(InputError, match=r"dataset\.snapshot=2020-01-01: .* holds 2025-07-01"):
        factbook("2020-01-01")


def test_questions_are_encrypted_as_the_published_ones():
    assert decrypt(encrypt("Côte d'Ivoire?", "canary"), "canary") == "Côte d'Ivoire?"


def test_a_split_that_is_none_is_refused_with_those_that_there_are():
    with pytest.raises(InputError, match="dataset.split=forms: .* the splits train, entities, families"):
        factbook_set("forms")
