"""Citations in answers, and how much of the right answer stands on the pages opened or cited."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.metrics.answers import score_answer
from src.gisa.metrics.citations import citations_of, evidence_of, gold_cells, without_citations

A, B = "https://a.example/x", "https://b.example/y_(z)"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"See [the page]({A}) and {A}#part.", [A]),  # the same page twice
        (f"Sources:\n[1] {A}\n[2]: <{B}>", [A, B]),
        (f"(as {B}), or ({A}).", [B, A]),  # brackets of the address stay, those of the text do not
        (f"| x | {A}?utm_source=openai | y |", [f"{A}?utm_source=openai"]),
        (f"**{A}**, `{B}`", [A, B]),
        ("no address, http://", []),
    ],
)
def test_addresses_of_an_answer(text, found):
    assert citations_of(text) == found


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Klow【4†source】\t642,000 [1][2]", "Klow\t642,000"),
        (f"Klow ([atlas.example]({A}?utm_source=openai))", "Klow"),
        (f"[Klow]({A})", "Klow"),
        (f"Klow ({A})", "Klow"),
        ("Klow\ue200cite\ue202turn0search1\ue201", "Klow"),
        ("Klow[^3] [2, 5] [1–3]", "Klow"),
        ("Klow (capital), [x] and [2024 est.]", "Klow (capital), [x] and [2024 est.]"),  # no citations
    ],
)
def test_an_answer_without_its_citations(text, plain):
    assert without_citations(text) == plain


@given(st.text(alphabet="ab [](){}^1,【】†\ue200\ue201\t\nhttps:/.", max_size=80))
def test_what_has_no_citations_stays_and_nothing_is_added(text):
    plain = without_citations(text)
    assert len(plain) <= len(text)
    assert plain.count("\n") == text.count("\n")


def test_evidence_by_hand():
    # Four cells: a page it opened holds two, of which one also stands on a cited page, known by its snippet.
    cells = gold_cells(b'Country,Population\nSyldavia,"642,000"\nBorduria,1204311\n', "table")
    assert cells == ["syldavia", "642000", "borduria", "1204311"]
    found = evidence_of(
        [B], cells, {A: "syldavia has 642000 people"}, {B: "about syldavia"}, [A, B, "https://c.example"]
    )
    assert vars(found) == {
        "citations": 1, "opened_cells": 0.5, "cited_cells": 0.25, "opened_human": 1 / 3, "cited_human": 1 / 3
    }  # fmt: skip


def test_what_is_not_known_is_none_and_not_zero():
    found = evidence_of([A], ["klow"], None, {}, [])
    assert vars(found) == {
        "citations": 1, "opened_cells": None, "cited_cells": None, "opened_human": None, "cited_human": None
    }  # fmt: skip
    assert evidence_of([], ["klow"], {}, {}, [A]).opened_cells == 0
    assert gold_cells(b"\x81\xff", "item") == []


def test_the_robust_scorer_reads_cells_without_citations_and_the_official_one_does_not():
    gold = b"Country,Capital\nSyldavia,Klow\n"
    cited = f"```tsv\nCountry\tCapital\nSyldavia [1]\tKlow ([atlas]({A}))\n```\nSources: [1] {A}"
    score = score_answer(cited, gold, "table")
    assert (score.official["global_em"], score.robust["global_em"]) == (0, 1)
    assert score.parity_flags == ["citations"]
    # A right answer that looks like a citation stays as it is.
    assert score_answer("```tsv\nx\nalbum [1]\n```", b"album [1]\n", "item").robust["global_em"] == 1
