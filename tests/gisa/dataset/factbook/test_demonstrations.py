import itertools
import json
import re
from collections import Counter

from src.gisa.dataset.factbook.demonstrations import (
    START,
    common_notes,
    either_notes,
    first_of,
    make_drills,
    order_notes,
    passing_notes,
    renamed,
    scratchpad,
    training_aids,
)
from src.gisa.dataset.factbook.families import catalogue, number, understand
from src.gisa.dataset.factbook.pages import page_with
from src.gisa.dataset.factbook.records import BY_KEY, is_for_training
from src.gisa.dataset.factbook.suite import factbook, factbook_set
from src.gisa.dataset.gisa import Gisa


def test_who_only_evaluates_meets_nothing_that_only_a_learner_needs(cache):
    for suite in (factbook(), factbook_set("entities", per_type=1), factbook_set("train", per_type=2)):
        assert {path.name for path in suite.root.iterdir()} == {
            "answer", "trace", "snapshot", "encrypted_question.jsonl", "suite.json",
        }  # fmt: skip
        assert not re.search(r"scratchpad|renamed|left: ", (suite.root / "suite.json").read_text())


def test_who_asks_for_demonstrations_gets_their_aids_once_and_drills_with_questions_to_learn_from(cache):
    train, tested = factbook_set("train", per_type=1), factbook_set("entities", per_type=2)
    aids = training_aids(train)
    assert aids.scratchpads.keys() == aids.renamed.keys() == {question.id for question in train.questions}
    assert [bool(names) for names in aids.renamed.values()] == [False, True, False, True]
    assert {len(block) for block in aids.drills} <= {9, 1, 2}  # one kind a block, all of it in one
    assert len(aids.drills) == 7
    files = {path: path.stat().st_mtime_ns for path in train.root.iterdir()}
    assert {"demonstrations.json", "drills.json"} <= {path.name for path in files}
    assert training_aids(factbook_set("train", per_type=1)) == aids
    assert {path: path.stat().st_mtime_ns for path in train.root.iterdir()} == files
    assert training_aids(Gisa(str(train.root))) == aids  # of a copy, say
    of_tested = training_aids(tested)
    assert (of_tested.drills, any(of_tested.renamed.values()), any(of_tested.scratchpads.values())) == ([], False, True)
    assert not (tested.root / "drills.json").exists()


def test_a_suite_of_another_kind_has_no_aids(tmp_path):
    (tmp_path / "question.jsonl").write_text(
        json.dumps({"id": 1, "question": "?", "answer_type": "item", "question_type": "stable", "topic": "x"})
    )
    assert training_aids(Gisa(str(tmp_path))) == ({}, {}, [])
    assert {path.name for path in tmp_path.iterdir()} == {"question.jsonl"}


def texts(notes):
    return [note.text for note in notes]


def test_notes_of_an_order_compare_each_with_the_order_so_far_up_to_its_place():
    sizes = {"A": "1,000", "B": "20", "C": "300"}
    assert texts(order_notes(sizes, "largest", only_first=False)) == [
        "A: 1,000, largest first (>)",
        "B: 20, largest first (>); 20 and 1,000: <, after A; order: A 1,000, B 20",
        "C: 300, largest first (>); 300 and 1,000: <, after A; 300 and 20: >, before B; order: A 1,000, C 300, B 20",
    ]
    years = {"A": "1900", "B": "1800", "C": "1850"}
    assert texts(order_notes(years, "earliest", only_first=False))[1:] == [
        "B: 1800, earliest first (<); 1800 and 1900: <, before A; order: B 1800, A 1900",
        "C: 1850, earliest first (<); 1850 and 1800: >, after B; 1850 and 1900: <, before A; "
        "order: B 1800, C 1850, A 1900",
    ]
    lowest = texts(order_notes({"A": "9", "B": "20"}, "ascending", only_first=False))
    assert lowest[1] == "B: 20, ascending (<); 20 and 9: >, after A; order: A 9, B 20"
    smallest = texts(order_notes({"A": "1898", "B": "1789"}, "smallest", only_first=False))
    assert smallest == [
        "A: 1898, smallest first (<)",
        "B: 1789, smallest first (<); 1789 and 1898: <, before A; order: B 1789, A 1898",
    ]
    assert [first_of(word) for word in ("lowest", "descending")] == ["lowest first", "descending"]


def test_notes_of_the_first_compare_each_with_the_first_so_far():
    assert texts(order_notes({"A": "9", "B": "20", "C": "3"}, "smallest", only_first=True)) == [
        "A: 9, the smallest (<)",
        "B: 20, the smallest (<); 20 and 9: >, after A; first: A 9",
        "C: 3, the smallest (<); 3 and 9: <, before A; first: C 3",
    ]


def test_notes_of_a_limit_tell_those_found_so_far():
    assert texts(passing_notes({"A": "4%", "B": "4.1%"}, "4%", "above")) == [
        "A: 4%, above 4% (>); 4% and 4%: =, no; found: none",
        "B: 4.1%, above 4% (>); 4.1% and 4%: >, yes; found: B",
    ]
    assert texts(passing_notes({"A": "1898", "B": "1789"}, "1850", "before")) == [
        "A: 1898, before 1850 (<); 1898 and 1850: >, no; found: none",
        "B: 1789, before 1850 (<); 1789 and 1850: <, yes; found: B",
    ]
    assert texts(passing_notes({"A": "5%"}, "4%", "more than")) == [
        "A: 5%, more than 4% (>); 5% and 4%: >, yes; found: A"
    ]


def test_notes_of_lists_tell_what_they_share_or_have_together():
    lands = {"A": ("X", "Y", "Z"), "B": ("Z", "U", "X")}
    assert texts(common_notes(lands)) == ["A: X, Y, Z", "B: Z yes, U no, X yes; both: Z, X"]
    assert texts(common_notes({"A": ("X",), "B": ("U",)}))[1] == "B: U no; both: none"
    assert texts(either_notes(lands)) == ["A: X, Y, Z", "B: Z, U, X; any: X, Y, Z, U"]


def test_a_table_is_planned_by_sections_and_every_cell_is_noted(days):
    draft = understand("For Peru, Chile: give the total area in square kilometres. Columns: Country, Total area.")
    pad = scratchpad(draft, [page_with(name, "area") for name in ("Peru", "Chile")], days[0])
    area = "total area in square kilometres"
    peru, chile = (days[0].values(name, "area")[0] for name in ("Peru", "Chile"))
    assert [*pad.values()] == [
        [f"- {area}: Geography", "left: Geography of Peru, Geography of Chile"],
        [f"- Peru, {area}: {peru}", "left: Geography of Chile"],
        [f"- Chile, {area}: {chile}", "left: none"],
    ]


def test_scratchpads_lead_from_what_was_read_to_the_answer_and_are_empty_where_nothing_is_compared(suite, days):
    pads = [scratchpad(question.draft, question.pages, days[0]) for question in suite]
    noted = Counter(question.draft.family.name for question, pad in zip(suite, pads, strict=True) if pad)
    assert {"largest", "above", "common_neighbours", "chronology", "ranking_live"} <= set(noted)
    assert not {"lookup", "lookup_live", "neighbours", "partners"} & set(noted)
    planned = Counter()
    for question, pad in zip(suite, pads, strict=True):
        family, last = question.draft.family.name, "".join(pad.get(question.pages[-1], [])[:1])
        assert set(pad) <= {START, *question.pages}
        if pad.get(START):
            plan = [f"{page.section} of {page.name}" for page in question.pages]
            lefts = [pad[page][-1] for page in (START, *question.pages)]
            assert lefts == [f"left: {', '.join(plan[at:])}" for at in range(len(plan))] + ["left: none"]
            assert all(page.name in question.draft.text for page in question.pages)
            planned[family] += 1
        if family in ("ranking", "chronology"):
            named = [one.rpartition(" ")[0] for one in last.partition("; order: ")[2].split(", ")]
            assert [[name] for name in named] == question.gold
        if family == "largest":
            assert [[last.partition("; first: ")[2].rpartition(" ")[0]]] == question.gold
        if family == "common_neighbours":
            assert [[name] for name in re.findall(r"[:,] ([^:,]+) yes", last)] == question.gold
            assert [[name] for name in last.partition("; both: ")[2].split(", ")] == question.gold
        if family == "above":
            assert [[name] for name in last.partition("; found: ")[2].split(", ")] == question.gold
        if family == "profile":
            read = dict(line.rsplit(": ", 1) for lines in pad.values() for line in lines)
            assert [cell for row in question.gold for cell in row[1:]] == [
                read[f"- {row[0]}, {BY_KEY[question.draft.slots[slot]].phrase}"]
                for row in question.gold
                for slot in ("field", "other")
            ]
    assert {"largest", "above", "common_neighbours", "chronology", "ranking_live", "profile"} <= set(planned)
    assert not {"largest_neighbour", "largest_member", "profile_neighbours", "landlocked", "top"} & set(planned)


def test_every_second_demonstration_calls_its_entities_by_names_that_nobody_has(cache, days):
    for split in ("train", "entities", "families"):
        suite = factbook_set(split, per_type=45)
        names_of = training_aids(suite).renamed
        assert [*names_of] == [question.id for question in suite.questions]
        assert [bool(names) for names in names_of.values()] == [
            split == "train" and at % 2 > 0 for at in range(len(names_of))
        ]
        for name, names in names_of.items():
            assert set(names) <= set(suite.metadata[name]["entities"])
            invented = re.findall(r"[^ -]+", " ".join(names.values()))
            assert not {*names.values(), *invented} & set(days[0].by_name)
            assert len(set(names.values())) == len(names)


def test_names_are_rewritten_wherever_they_stand_alone():
    call = {"function": {"name": "visit", "arguments": '{"url": ["https://a.example/c%C3%B4te-noir/land"]}'}}
    messages = [
        {"role": "user", "content": "Niger, Nigeria and Côte Noir; not Niger-Benue.", "at": 3},
        {"role": "assistant", "content": "Niger: 4", "tool_calls": [call]},
    ]
    new = {"Niger": "Sway", "Côte Noir": "Isium Bel"}
    first, second = renamed(messages, new)
    assert first == {"role": "user", "content": "Sway, Nigeria and Isium Bel; not Niger-Benue.", "at": 3}
    assert second["content"] == "Sway: 4"
    assert second["tool_calls"][0]["function"]["arguments"] == '{"url": ["https://a.example/isium-bel/land"]}'
    assert messages[0]["content"].startswith("Niger, ")
    assert renamed(messages, {}) == messages


def test_drills_are_about_nothing_that_is_tested_and_what_is_told_follows(days):
    numbers = {
        "comparisons": 600,
        "names": 200,
        "shared": 100,
        "last_notes": 100,
        "signs": 114,
        "plans": 90,
        "tables": 120,
    }
    made = make_drills(days[0], numbers, seed=1)
    compared, listed, shared, notes, first_signs, plans, tables = made.values()
    assert {kind: len(lines) for kind, lines in made.items()} == numbers
    assert made == make_drills(days[0], numbers, seed=1)
    assert compared != make_drills(days[0], numbers, seed=2)["comparisons"]
    words = catalogue()
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
        first, second = number(one), number(other)
        assert {"<": first < second, ">": first > second, "=": first == second}[sign]
        if word:
            assert wanted == words.signs[word]
            good = sign == wanted
            assert verdict == {True: ("before", "yes"), False: ("after", "no")}[good][word in words.limit_words]
        signs.update([sign, word or "sign alone", verdict])
    assert min(signs["<"], signs[">"]) > 200
    assert signs["sign alone"] == 400
    assert min(signs[word] for word in words.signs) >= 6
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
        sizes = {name: number(value) for name, value, *_ in noted}
        if kind == "found":
            limit = number(wanted.rpartition(" ")[2])
            passing = [name for name, size in sizes.items() if (size > limit if sign == ">" else size < limit)]
            assert end == ", ".join(passing)
        else:
            order = sorted(sizes, key=sizes.get, reverse=sign == ">")
            assert kind == ("first" if wanted.startswith("the ") else "order")
            told_order = [one.rpartition(" ")[0] for one in end.split(", ")]
            assert told_order == (order[:1] if kind == "first" else order)
        kinds.update([kind, sign])
    for shown, told in first_signs:
        name, value, phrase = re.fullmatch(r"- (.+): (\S+), ([a-z ]+).*", shown).groups()
        assert is_for_training(name)
        assert value in known
        assert told == f"({words.signs[words.word_in(phrase)]})\n"
    assert {words.word_in(shown) for shown, _ in first_signs} == set(words.signs)
    assert min(kinds[kind] for kind in ("found", "first", "order", "<", ">")) > 15
    planned = [*plans[::2], *tables[::2]]
    asked = [understand(shown.removesuffix("\n")) for shown, _ in planned]
    assert len({draft.family.name for draft in asked[: len(plans) // 2]}) == 9
    assert len({draft.family.name for draft in asked[len(plans) // 2 :]}) == 6
    assert not any(draft.family.held_out for draft in asked)
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
        has_sections = draft.family.name.startswith("profile")
        named = ", ".join(f"{field.phrase}: {field.section}" for field in of_fields)
        assert sections == ([f"- {named}"] if has_sections else [])
    assert invented_ones > 40
    for draft, (shown, told) in zip(asked[: len(plans) // 2], plans[1::2], strict=True):
        name, value = re.fullmatch(r"- (.+): (\S+),", shown).groups()
        assert name == draft.slots["all"].split(", ")[0]
        assert value in known
        phrase, sign, rest = re.fullmatch(r"(.+) \(([<>])\)(.*)\n", told).groups()
        assert words.signs[words.word_in(phrase)] == sign
        assert words.word_in(phrase) == draft.word
        assert ("limit" in draft.slots) == bool(rest) == (draft.family.answer_type == "set")
    for draft, (shown, told) in zip(asked[len(plans) // 2 :], tables[1::2], strict=True):
        header, *rows = [line.split("\t") for line in told.removeprefix("```tsv\n").removesuffix("```\n").splitlines()]
        assert header == [f" {name}" for name in draft.header]
        assert {row[0][1:] for row in rows} == set(draft.slots["all"].split(", "))
        *noted, last = shown.removesuffix("\n").split("\n")
        assert last == "left: none"
        if draft.family.name == "ascending_table":
            order = [f" {one}" for one in noted[-1].rpartition("order: ")[2].split(", ")]
            assert ["".join(row) for row in rows] == order
        else:
            fields = [BY_KEY[draft.slots[slot]].phrase for slot in ("field", "other", "third") if slot in draft.slots]
            cells = [(row[0], *cell) for row in rows for cell in zip(fields, row[1:], strict=True)]
            assert sorted(noted) == sorted(f"-{name}, {phrase}:{cell}" for name, phrase, cell in cells)
