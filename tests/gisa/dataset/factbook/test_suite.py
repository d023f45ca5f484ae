import hashlib
import itertools
import json
import re
from collections import Counter

import pytest

from src.gisa.dataset.factbook import answers
from src.gisa.dataset.factbook.drills import make_practice
from src.gisa.dataset.factbook.more_families import ALL_FORMS, WORDINGS
from src.gisa.dataset.factbook.names import is_for_training
from src.gisa.dataset.factbook.page_text import read_html
from src.gisa.dataset.factbook.pages import address_of, group_title, render, section_title
from src.gisa.dataset.factbook.questions import (
    Records,
    make_set,
    make_suite,
    trace_of,
    understand,
    worded,
)
from src.gisa.dataset.factbook.records import BY_KEY, Entity, read_countries, read_elements
from src.gisa.dataset.factbook.suite import FIRST, LATER, encrypt, factbook, factbook_set, factbook_web
from src.gisa.dataset.gisa import decrypt
from src.gisa.metrics.answers import official_score
from src.launch.errors import InputError


@pytest.fixture(scope="module")
def days():
    return [Records([*read_countries(year), *read_elements()]) for year in (2023, 2024)]


@pytest.fixture(scope="module")
def suite(days):
    return make_suite(*days, seed=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder that holds no suite at first."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr("src.gisa.dataset.factbook.suite.cache_folder", lambda: folder)
        yield folder


class PagesOnly:
    """Gives facts from the text of the pages and nothing else; slow, obvious, and independent of the records."""

    def __init__(self, corpus):
        self.corpus = corpus

    def text(self, kind, title):
        return self.corpus.read(address_of(kind, title)).text

    def values(self, name, key):
        field = BY_KEY[key]
        kind = "country" if field.path[0].isupper() else "element"
        for line in re.sub(
            rf"{field.label}\n", f"{field.label}: ", self.text(kind, section_title(name, field.section))
        ).split("\n"):
            found = re.fullmatch(rf"(?:- )?{field.label}(?: \||:) (.*)|For .* {field.label} is given as (.*)\.", line)
            if found:
                return field.values(found[1] or found[2])
        raise AssertionError((name, key))

    def note(self, line):
        pass

    def members(self, group):
        return tuple(re.findall(r"\[(.*?)\]", self.text("country", group_title("country", group))))


def test_every_gold_answer_follows_from_the_pages_of_its_day(suite):
    first, later = PagesOnly(factbook_web(FIRST)), PagesOnly(factbook_web(LATER))
    for question in suite:
        form, slots = question.draft.form, question.draft.slots
        assert form.answer(first, slots) == question.gold
        assert form.answer(later, slots) == question.later


def test_notes_lead_from_what_was_read_to_the_answer_and_are_left_out_where_nothing_is_compared(suite):
    noted = Counter(question.draft.form.name for question in suite if question.notes)
    assert {"largest", "above", "common_neighbours", "chronology", "ranking_live"} <= set(noted)
    assert not {"lookup", "lookup_live", "neighbours", "partners"} & set(noted)
    planned = Counter()
    for question in suite:
        form, last = question.draft.form.name, "".join(question.notes.get(question.pages[-1], [])[:1])
        assert set(question.notes) <= {("", ""), *question.pages}
        if question.notes.get(("", "")):
            plan = [" of ".join(reversed(title.split(": "))) for _, title in question.pages]
            lefts = [question.notes[page][-1] for page in [("", ""), *question.pages]]
            assert lefts == [f"left: {', '.join(plan[at:])}" for at in range(len(plan))] + ["left: none"]
            assert all(title.partition(": ")[0] in question.draft.text for _, title in question.pages)
            planned[form] += 1
        if form in ("ranking", "chronology"):
            named = [one.rpartition(" ")[0] for one in last.partition("; order: ")[2].split(", ")]
            assert [[name] for name in named] == question.gold
        if form == "largest":
            assert [[last.partition("; first: ")[2].rpartition(" ")[0]]] == question.gold
        if form == "common_neighbours":
            assert [[name] for name in re.findall(r"[:,] ([^:,]+) yes", last)] == question.gold
            assert [[name] for name in last.partition("; both: ")[2].split(", ")] == question.gold
        if form == "above":
            assert [[name] for name in last.partition("; found: ")[2].split(", ")] == question.gold
        if form == "profile":
            read = dict(line.rsplit(": ", 1) for lines in question.notes.values() for line in lines)
            assert [cell for row in question.gold for cell in row[1:]] == [
                read[f"- {row[0]}, {BY_KEY[question.draft.slots[slot]].phrase}"]
                for row in question.gold
                for slot in ("field", "other")
            ]
    assert {"largest", "above", "common_neighbours", "chronology", "ranking_live", "profile"} <= set(planned)
    assert not {"largest_neighbour", "largest_member", "profile_neighbours", "landlocked", "top"} & set(planned)


def test_practice_is_about_nothing_that_is_tested_and_what_is_told_follows(days):
    numbers = {"comparisons": 600, "names": 200, "shared": 100, "notes": 100, "signs": 114, "plans": 90, "tables": 120}
    compared, listed, shared, notes, first_signs, plans, tables = made = make_practice(days[0], **numbers, seed=1)
    assert [len(kind) for kind in made] == [*numbers.values()]
    assert made == make_practice(days[0], **numbers, seed=1)
    assert compared != make_practice(days[0], **numbers, seed=2)[0]
    known = {
        value
        for name, entity in days[0].by_name.items()
        if is_for_training(name)
        for key in entity.shown
        for value in entity.values(key)
    }
    signs = Counter()
    for line in compared:
        pattern = r"(?:(?:the )?([a-z ]+?)(?: first)? \(([<>])\); )?(\S+) and (\S+): ([<>=])(?:, (\w+))?"
        word, wanted, one, other, sign, verdict = re.fullmatch(pattern, " ".join(line)).groups()
        assert {one, other} <= known
        first, second = answers.number(one), answers.number(other)
        assert {"<": first < second, ">": first > second, "=": first == second}[sign]
        if word:
            assert wanted == {**answers.ORDER_WORDS, **answers.LIMIT_WORDS}[word]
            good = sign == wanted
            assert verdict == {True: ("before", "yes"), False: ("after", "no")}[good][word in answers.LIMIT_WORDS]
        signs.update([sign, word or "sign alone", verdict])
    assert min(signs["<"], signs[">"]) > 200
    assert signs["sign alone"] == 400
    assert min(signs[word] for word in [*answers.ORDER_WORDS, *answers.LIMIT_WORDS]) >= 6
    assert min(signs[verdict] for verdict in ("before", "after", "yes", "no")) > 20
    for line in listed:
        names, before, after = re.fullmatch(r"(.*); after (\S+):\n(\S+)", "".join(line)).groups()
        assert (before, after) in itertools.pairwise(names.split(", "))
        assert not set(names.split(", ")) & set(days[0].by_name)
    for shown, told in shared:
        one, listed, page, other = re.fullmatch(r"- (.+): (.+)\nLand borders: (.+)\n- (.+):", shown).groups()
        first = listed.split(", ")
        second = dict(name.rsplit(" ", 1) for name in told.partition("; both: ")[0].split(", "))
        assert second == {name: "yes" if name in first else "no" for name in BY_KEY["borders"].values(page)}
        assert told.endswith("; both: " + ", ".join(name for name in second if name in first) + "\n")
        assert all(map(is_for_training, [one, other, *first, *second]))
    kinds = Counter()
    for shown, told in notes:
        noted = re.findall(r"^- (.+?): (\S+), (.+) \(([<>])\);?", shown, re.M)
        assert 2 <= len(noted) <= 4
        assert all(is_for_training(name) and value in known for name, value, *_ in noted)
        [(wanted, sign)] = {tuple(rest) for _, _, *rest in noted}
        kind, end = told.removesuffix("\n").rpartition("; ")[2].split(": ")
        sizes = {name: answers.number(value) for name, value, *_ in noted}
        if kind == "found":
            limit = answers.number(wanted.rpartition(" ")[2])
            passing = [name for name, size in sizes.items() if (size > limit if sign == ">" else size < limit)]
            assert end == ", ".join(passing)
        else:
            order = sorted(sizes, key=sizes.get, reverse=sign == ">")
            assert kind == ("first" if wanted.startswith("the ") else "order")
            told_order = [one.rpartition(" ")[0] for one in end.split(", ")]
            assert told_order == (order[:1] if kind == "first" else order)
        kinds.update([kind, sign])
    words = {**answers.ORDER_WORDS, **answers.LIMIT_WORDS}
    for shown, told in first_signs:
        name, value, phrase = re.fullmatch(r"- (.+): (\S+), ([a-z ]+).*", shown).groups()
        assert is_for_training(name)
        assert value in known
        assert told == f"({words[answers.word_in(phrase)]})\n"
    assert {answers.word_in(shown) for shown, _ in first_signs} == set(words)
    assert min(kinds[kind] for kind in ("found", "first", "order", "<", ">")) > 15
    planned = [*plans[::2], *tables[::2]]
    asked = [understand(shown.removesuffix("\n")) for shown, _ in planned]
    assert len({draft.form.name for draft in asked[: len(plans) // 2]}) == 9
    assert len({draft.form.name for draft in asked[len(plans) // 2 :]}) == 6
    assert not any(draft.form.held_out for draft in asked)
    invented_ones = 0
    for draft, (_, told) in zip(asked, planned, strict=True):
        names = draft.slots["all"].split(", ")
        assert all(map(is_for_training, set(names) & set(days[0].by_name)))
        invented_ones += not set(names) & set(days[0].by_name)
        *sections, left = told.removesuffix("\n").split("\n")
        of_fields = [BY_KEY[draft.slots[slot]] for slot in ("field", "other", "third") if slot in draft.slots]
        assert left == "left: " + ", ".join(
            f"{section} of {name}" for name in names for section in dict.fromkeys(field.section for field in of_fields)
        )
        has_sections = draft.form.name.startswith("profile")
        named = ", ".join(f"{field.phrase}: {field.section}" for field in of_fields)
        assert sections == ([f"- {named}"] if has_sections else [])
    assert invented_ones > 40
    for draft, (shown, told) in zip(asked[: len(plans) // 2], plans[1::2], strict=True):
        name, value = re.fullmatch(r"- (.+): (\S+),", shown).groups()
        assert name == draft.slots["all"].split(", ")[0]
        assert value in known
        phrase, sign, rest = re.fullmatch(r"(.+) \(([<>])\)(.*)\n", told).groups()
        assert words[answers.word_in(phrase)] == sign
        assert answers.word_in(phrase) in (draft.word, "largest", "smallest", "earliest", "above")
        assert ("limit" in draft.slots) == bool(rest) == (draft.form.answer_type == "set")
    for draft, (shown, told) in zip(asked[len(plans) // 2 :], tables[1::2], strict=True):
        header, *rows = [line.split("\t") for line in told.removeprefix("```tsv\n").removesuffix("```\n").splitlines()]
        assert header == [f" {name}" for name in draft.form.columns(draft.slots)]
        assert {row[0][1:] for row in rows} == set(draft.slots["all"].split(", "))
        *noted, last = shown.removesuffix("\n").split("\n")
        assert last == "left: none"
        if draft.form.name == "ascending_table":
            order = [f" {one}" for one in noted[-1].rpartition("order: ")[2].split(", ")]
            assert ["".join(row) for row in rows] == order
        else:
            fields = [BY_KEY[draft.slots[slot]].phrase for slot in ("field", "other", "third") if slot in draft.slots]
            cells = [(row[0], *cell) for row in rows for cell in zip(fields, row[1:], strict=True)]
            assert sorted(noted) == sorted(f"-{name}, {phrase}:{cell}" for name, phrase, cell in cells)


def test_the_word_that_says_what_is_wanted_is_the_first_of_its_kind_and_means_what_the_form_does():
    assert answers.word_in("Sort {all} from the smallest {field} to the greatest.") == "smallest"
    assert answers.word_in("Which have a {field} of more than {limit}?") == "more than"
    assert answers.word_in("How do {all} rank by {field}? Begin with the first.") == ""
    assert [answers.first_of(word) for word in ("lowest", "descending")] == ["lowest first", "descending"]
    signs = {"largest": ">", "ranking": ">", "above": ">", "smallest": "<", "chronology": "<", "ascending": "<"}
    signs |= {"earliest": "<", "found_before": "<", "ascending_table": "<"}
    words = {**answers.ORDER_WORDS, **answers.LIMIT_WORDS}
    for form, sign in {**signs, "above_live": ">", "ranking_live": ">", "profile_sorted": ">", "below": "<"}.items():
        assert {words[word] for word in map(answers.word_in, WORDINGS[form]) if word} == {sign}


def listed(**values):
    """A reader of values by name."""
    return answers.Listed(values)


def test_notes_of_a_ranking_a_limit_and_neighbours_in_common():
    sizes = listed(A=("1,000",), B=("20",), C=("300",))
    assert answers.ranking(sizes, {"all": "A, B, C", "field": "area"}) == [["A"], ["C"], ["B"]]
    assert sizes.notes == [
        "A: 1,000, largest first (>)",
        "B: 20, largest first (>); 20 and 1,000: <, after A; order: A 1,000, B 20",
        "C: 300, largest first (>); 300 and 1,000: <, after A; 300 and 20: >, before B; order: A 1,000, C 300, B 20",
    ]
    years = listed(A=("1900",), B=("1800",), C=("1850",))
    assert answers.chronology(years, {"all": "A, B, C", "field": "found"}) == [["B"], ["C"], ["A"]]
    assert years.notes[1:] == [
        "B: 1800, earliest first (<); 1800 and 1900: <, before A; order: B 1800, A 1900",
        "C: 1850, earliest first (<); 1850 and 1800: >, after B; 1850 and 1900: <, before A; "
        "order: B 1800, C 1850, A 1900",
    ]
    with pytest.raises(answers.NoAnswerError):
        answers.ranking(listed(A=("9",), B=("20",), C=("9.0",)), {"all": "A, B, C", "field": "area"})
    assert answers.largest(listed(A=("9",), B=("20",)), {"all": "A, B", "field": "area"}) == [["B"]]
    least = listed(A=("9",), B=("20",), C=("3",))
    assert answers.smallest(least, {"all": "A, B, C", "field": "area"}) == [["C"]]
    assert least.notes == [
        "A: 9, the smallest (<)",
        "B: 20, the smallest (<); 20 and 9: >, after A; first: A 9",
        "C: 3, the smallest (<); 3 and 9: <, before A; first: C 3",
    ]
    with pytest.raises(answers.NoAnswerError):
        answers.largest(listed(A=("30",), B=("20",), C=("20.0",)), {"all": "A, B, C", "field": "area"})
    lowest = listed(A=("9",), B=("20",))
    assert answers.chronology(lowest, {"all": "A, B", "field": "area", "word": "ascending"}) == [["A"], ["B"]]
    assert lowest.notes[1] == "B: 20, ascending (<); 20 and 9: >, after A; order: A 9, B 20"
    rates = listed(A=("4%",), B=("4.1%",))
    assert answers.above(rates, {"all": "A, B", "field": "inflation", "limit": "4%"}) == [["B"]]
    assert rates.notes == [
        "A: 4%, above 4% (>); 4% and 4%: =, no; found: none",
        "B: 4.1%, above 4% (>); 4.1% and 4%: >, yes; found: B",
    ]
    assert answers.below(listed(A=("3%",), B=("4%",)), {"all": "A, B", "field": "inflation", "limit": "4%"}) == [["A"]]
    found = listed(A=("1898",), B=("1789",))
    assert answers.earliest(found, {"all": "A, B", "field": "found"}) == [["B"]]
    assert answers.found_before(found, {"all": "A, B", "field": "found", "limit": "1850"}) == [["B"]]
    assert found.notes[2:] == [
        "A: 1898, before 1850 (<); 1898 and 1850: >, no; found: none",
        "B: 1789, before 1850 (<); 1789 and 1850: <, yes; found: B",
    ]
    assert answers.ascending_table(found, {"all": "A, B", "field": "found"}) == [["B", "1789"], ["A", "1898"]]
    assert found.notes[4:] == [
        "A: 1898, smallest first (<)",
        "B: 1789, smallest first (<); 1789 and 1898: <, before A; order: B 1789, A 1898",
    ]
    over = listed(A=("5%",))
    with pytest.raises(answers.NoAnswerError):  # all of them
        answers.above(over, {"all": "A", "field": "inflation", "limit": "4%", "word": "more than"})
    assert over.notes == ["A: 5%, more than 4% (>); 5% and 4%: >, yes; found: A"]
    lands = listed(A=("X", "Y", "Z"), B=("Z", "U", "X"))
    assert answers.common(lands, {"all": "A, B", "field": "borders"}) == [["Z"], ["X"]]
    assert lands.notes == ["A: X, Y, Z", "B: Z yes, U no, X yes; both: Z, X"]
    assert answers.either(lands, {"all": "A, B", "field": "borders"}) == [["X"], ["Y"], ["Z"], ["U"]]
    assert lands.notes[2:] == ["A: X, Y, Z", "B: Z, U, X; any: X, Y, Z, U"]
    cells = listed(A=("4",), B=("5",))
    assert answers.profile_one(cells, {"all": "A, B", "field": "area"}) == [["A", "4"], ["B", "5"]]
    area = "total area in square kilometres"
    assert cells.notes == [f"{area}: Geography", f"A, {area}: 4", f"B, {area}: 5"]


def test_the_suite_has_all_types_topics_splits_and_lengths_of_way(suite):
    assert len(suite) >= 300
    assert min(Counter(question.draft.form.answer_type for question in suite).values()) >= 70
    assert len({question.topic for question in suite}) >= 10
    assert Counter(question.is_live for question in suite)[True] >= 60
    assert set(Counter(question.split for question in suite)) == {"train", "entities", "forms"}
    ways = Counter(len(question.pages) for question in suite)
    assert ways[1] >= 50
    assert sum(count for pages, count in ways.items() if pages >= 5) >= 80


def test_live_answers_change_from_day_to_day_and_others_do_not(suite):
    assert all((question.gold != question.later) == question.is_live for question in suite)


def test_nothing_of_the_test_questions_is_met_in_training(suite):
    names, forms = {}, {}
    for question in suite:
        slots = question.draft.slots
        about = [slots.get("a"), slots.get("group"), *slots.get("all", "").split(", ")]
        names.setdefault(question.split, set()).update(filter(None, about))
        forms.setdefault(question.split, set()).add(question.draft.form.name)
    assert not names["train"] & names["entities"]
    assert all(map(is_for_training, names["train"]))
    assert not forms["train"] & forms["forms"]


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
        if question.draft.form.answer_type == "table":
            assert not [url for url, text in pages.items() if all(cell in text for cell in cells)]
        else:
            assert not [url for url, links in lists.items() if cells <= links and len(cells) > len(links) / 2]


def test_every_link_leads_to_a_page():
    corpus = factbook_web(FIRST)
    links = {link for document in corpus._documents.values() for link in re.findall(r'href="([^"]+)"', document.html)}
    assert len(links) > 1500
    assert [link for link in links if corpus.read(link) is None and corpus.read(link + "/") is None] == []


def test_older_editions_and_idle_pages_are_part_of_the_web():
    corpus = factbook_web(FIRST)
    economy = corpus.read(address_of("country", "Peru: Economy")).text
    older = corpus.read(address_of("country", "Peru in the 2022 edition: Economy")).text
    assert "(2023 est.)" in economy
    assert "(2022 est.)" in older
    assert "edition of 2022" in older
    assert "More next time!" in corpus.read(address_of("country", "Notes on Peru")).text


def test_questions_are_understood_as_they_were_meant(suite):
    for question in suite:
        understood = understand(question.draft.text)
        assert (understood.form, dict(understood.slots)) == (question.draft.form, dict(question.draft.slots))
    assert understand("How are you?") is None


@pytest.mark.parametrize("form", ALL_FORMS, ids=lambda form: form.name)
def test_all_wordings_of_a_form_are_different_and_complete(form):
    assert len(WORDINGS[form.name]) >= (4 if form.held_out or "{group}" in form.wordings[0] else 8)
    slots = {"a": "Peru", "all": "Peru, Chile", "group": "Africa", "n": "3", "limit": "5", "field": form.fields[0]}
    slots["other"], slots["third"] = [other for other in (*form.others, "age") if other != form.fields[0]][:2]
    texts = {worded(form, slots, wording) for wording in range(len(WORDINGS[form.name]))}
    assert len(texts) == len(WORDINGS[form.name])
    assert not [text for text in texts if "{" in text]


@pytest.fixture(scope="module")
def sets(days):
    return {split: make_set(split, *days, per_type=45, max_pages=4, seed=1) for split in ("train", "entities", "forms")}


def test_every_second_demonstration_calls_its_entities_by_names_that_nobody_has(sets, days):
    for split, questions in sets.items():
        assert [bool(one.renamed) for one in questions] == [
            split == "train" and at % 2 > 0 for at in range(len(questions))
        ]
        for question in questions:
            assert set(question.renamed) <= set(question.entities)
            invented = re.findall(r"[^ -]+", " ".join(question.renamed.values()))
            assert not {*question.renamed.values(), *invented} & set(days[0].by_name)
            assert len(set(question.renamed.values())) == len(question.renamed)


def test_the_suite_is_still_the_one_that_was_published_first(suite):
    """Ids are places in the suite, so old runs can be scored as long as this holds."""
    content = repr([(question.draft.text, question.gold, question.later) for question in suite])
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == "1bc5df1d8d745f05"


def test_sets_have_every_type_of_answer_and_tables_of_all_sizes(sets):
    for split, questions in sets.items():
        assert set(Counter(question.draft.form.answer_type for question in questions).values()) == {45}
        assert {question.split for question in questions} == {split}
        assert max(len(question.pages) for question in questions) == 4
        assert len({question.draft.text for question in questions}) == len(questions)
    for split in ("train", "entities"):
        tables = [question.gold for question in sets[split] if question.draft.form.answer_type == "table"]
        sizes = {(len(rows), len(rows[0])) for rows in tables}
        assert sizes == {(rows, columns) for rows in (2, 3, 4) for columns in (2, 3, 4)}
        assert sum(len(rows) >= 3 and len(rows[0]) >= 3 for rows in tables) >= 12
    train = [question.draft for question in sets["train"]]
    assert {draft.form.name for draft in train} == {question.draft.form.name for question in sets["entities"]}
    assert all(len(WORDINGS[draft.form.name]) >= 8 for draft in train)


def test_training_reads_of_no_entity_and_meets_no_form_that_is_tested(sets):
    read = {split: {name for question in questions for name in question.entities} for split, questions in sets.items()}
    asked = {
        name
        for question in sets["forms"]
        for name in (question.draft.slots.get("a"), *question.draft.slots.get("all", "").split(", "))
    }
    forms = {split: {question.draft.form.name for question in questions} for split, questions in sets.items()}
    assert all(map(is_for_training, read["train"]))
    assert not read["train"] & (read["entities"] | asked)
    assert not forms["train"] & forms["forms"]
    for question in sets["train"]:
        assert question.entities == list(dict.fromkeys(title.split(": ")[0] for _, title in question.pages))


def test_answers_of_sets_follow_from_the_pages_and_their_questions_are_understood(sets):
    pages = PagesOnly(factbook_web(FIRST))
    for question in itertools.chain(*sets.values()):
        form, slots = question.draft.form, question.draft.slots
        assert form.answer(pages, slots) == question.gold
        understood = understand(question.draft.text)
        assert (understood.form, dict(understood.slots)) == (form, dict(slots))


def test_a_set_lies_beside_the_suite_with_ids_of_its_own(cache):
    data = factbook_set("forms", per_type=2)
    assert data.remarks() == []
    assert [question.id for question in data.questions] == [f"forms-{number}" for number in range(1, 9)]
    about = json.loads((data.root / "suite.json").read_bytes())
    assert {one["split"] for one in about.values()} == {"forms"}
    assert all(one["entities"] for one in about.values())
    assert data.root != factbook().root


def test_traces_click_their_way_to_every_page_in_order(suite):
    corpus = factbook_web(FIRST)
    for question in suite[::23]:
        trace = trace_of(question.pages, corpus)
        reached = [click["to"] for click in trace["click"]]
        wanted = [address_of(kind, title) for kind, title in question.pages]
        assert [url for url in reached if url in wanted] == wanted
        for click in trace["click"]:
            from_results = click["from"].startswith("https://www.google.com/search?q=")
            assert from_results or click["from"] in reached
        assert list(trace["result"]) == list(dict.fromkeys(trace["search"]))


@pytest.mark.parametrize(
    ("key", "shown", "values"),
    [
        ("capital", "Lima", ("Lima",)),
        ("capital", "Porto-Novo (constitutional capital); Cotonou (seat of government)", ()),
        ("area", "475,440 sq km", ("475,440",)),
        ("area", "1.267 million sq km", ()),
        ("peak", "Fako on Mont Cameroun 4,045 m", ("Fako on Mont Cameroun",)),
        ("height", "Fako on Mont Cameroun 4,045 m", ("4,045",)),
        ("coastline", "0 km (doubly landlocked)", ("0",)),
        ("borders", "Latvia 333 km; Russia 324 km", ("Latvia", "Russia")),
        ("borders", "Chad 1,116 km; DRC 11 km", ("Chad", "Democratic Republic of the Congo")),
        ("borders", "Russia (Kaliningrad Oblast) 209 km", ()),
        ("partners", "USA 12%, S. Korea 5% (2023)", ("United States", "South Korea")),
        ("income", "$41,500 (2024 est.)", ("41,500",)),
        ("inflation", "-0.1% (2024 est.)", ("-0.1%",)),
        ("tld", ".pe", (".pe",)),
        ("tld", ".gb (official, but rarely used)", ()),
        ("density", "19.3", ("19.3",)),
    ],
)
def test_values_are_taken_from_texts_of_the_usual_form_only(key, shown, values):
    assert BY_KEY[key].values(shown) == values


def test_the_sources_say_what_they_are_known_to_say(days):
    first, later = days
    assert first.values("Peru", "capital") == ("Lima",)
    assert set(first.values("Germany", "borders")) & set(first.values("Austria", "borders")) == {
        "Czechia",
        "Switzerland",
    }
    assert first.values("Gold", "number") == ("79",)
    assert first.values("Estonia", "unemployment") == ("6.4%",)
    assert later.values("Estonia", "unemployment") == ("7.9%",)


def test_a_page_shows_its_facts_in_one_of_four_layouts():
    shown = {"capital": "A & B", "government": "republic"}
    entities = [Entity(f"Land {number}", "country", "Africa", shown, "<Old> land.") for number in range(30)]
    pages = [
        page for page in render(entities, [], date="2024-07-01", older_year=2022) if page.url.endswith("/government")
    ]
    shapes = {re.sub(r"Land \d+", "Land", read_html(page.html, page.url).text) for page in pages}
    assert shapes == {
        "# Land: Government\nCapital | A & B\nGovernment type | republic",
        "# Land: Government\nCapital\nA & B\nGovernment type\nrepublic",
        "# Land: Government\n- Capital: A & B\n- Government type: republic",
        "# Land: Government\nFor Land, the Capital is given as A & B."
        "\nFor Land, the Government type is given as republic.",
    }


def test_the_suite_lies_in_the_published_layout_and_is_made_once(cache, suite):
    data = factbook()
    assert data.remarks() == []
    assert len(data.questions) == len(suite)
    for question, made in zip(data.questions, suite, strict=True):
        assert question.text == made.draft.text
        header = made.draft.form.columns(made.draft.slots)
        prediction = "\n".join("\t".join(row) for row in [header, *made.gold])
        assert official_score(f"```tsv\n{prediction}\n```", data.gold(question), question.answer_type)["global_em"] == 1
    trace = data.trace(data.questions[0])
    assert trace.searches
    about = json.loads((data.root / "suite.json").read_bytes())
    assert about["1"].keys() == {"form", "split", "hops", "entities", "slots", "renamed", "notes"}
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
