"""One cause an error, by rules, each worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.metrics.answers import score_answer
from src.gisa.metrics.behaviour import searchable
from src.gisa.metrics.errors import CAUSES, MEANINGS, PUBLISHED_SHARES, Way, WrongAnswer, label_error

PAGE, OTHER = "https://atlas.example/page", "https://atlas.example/other"
ITEM, SET, LIST = b"Amber Hill\n", b"Encke\nHalley\n", b"x\ny\nz\n"
TABLE = b"Country,Population,Capital\nSyldavia,642000,Klow\nBorduria,1204311,Szohod\n"
NOTHING = Way(queries=["amber"], listed=[OTHER], snippets=["no word of it"])


def answer(*rows, header="Answer"):
    return "```tsv\n" + "\n".join([header, *rows]) + "\n```"


def read(text, *more, listed=(PAGE,)):
    pages = [searchable(page) for page in (text, *more)]
    return Way(["amber"], listed, ["snippets"], [[f"https://atlas.example/{at}"] for at in range(len(pages))], pages)


def label(prediction, gold=ITEM, kind="item", **known):
    score = score_answer(prediction, gold, kind)
    assert not score.official["global_em"]
    return label_error(WrongAnswer(prediction, gold, kind, bool(score.robust["global_em"]), **known))


@pytest.mark.parametrize(
    ("cause", "prediction", "gold", "kind", "known"),
    [
        # Form: right for a careful reader, in another order, in other columns, with a unit, in no readable form.
        ("instruction_following", "| Answer |\n|---|\n| Amber Hill |", ITEM, "item", {}),
        ("instruction_following", answer("x", "z", "y"), LIST, "list", {}),
        ("instruction_following", answer("Syldavia\tKlow\t642000", "Borduria\tSzohod\t1204311",
                                         header="Country\tPopulation\tCapital"), TABLE, "table", {}),
        ("instruction_following", answer("642,000 people"), b"642000\n", "item", {}),
        ("instruction_following", answer("05/01/2024"), b"2024-1-5\n", "item", {"way": read("on 2024-1-5")}),
        ("instruction_following", "Amber Hill, I think", ITEM, "item", {"outcome": "format_error"}),
        ("instruction_following", "", ITEM, "item", {"outcome": "budget", "way": read("The spring is on Amber Hill.")}),
        # It was read: alone, or beside what was taken instead, on another page.
        ("extraction", answer("Birch Hill"), ITEM, "item", {"way": read("It springs on Amber Hill.")}),
        ("extraction", answer("Halley"), SET, "set", {"way": read("Encke and Halley")}),
        ("conflict_resolution", answer("Birch Hill"), ITEM, "item",
         {"way": read("It springs on Amber Hill.", "It springs on Birch Hill.")}),
        ("extraction", answer("Birch Hill"), ITEM, "item", {"way": read("Amber Hill is not Birch Hill.")}),
        # It was not read: the human's page was listed and not opened, or opened in vain, or never found.
        ("link_use", answer("Birch Hill"), ITEM, "item",
         {"way": Way(["amber"], [f"{PAGE}/#top"], ["snippet"]), "human_urls": [PAGE]}),
        ("extraction", answer("Birch Hill"), ITEM, "item",
         {"way": Way(["amber"], [PAGE], ["snippet"], [[PAGE]], ["another part"]), "human_urls": [PAGE]}),
        ("query_formulation", answer("Birch Hill"), ITEM, "item", {"way": NOTHING, "human_urls": [PAGE]}),
        ("query_formulation", answer("Birch Hill"), ITEM, "item", {"way": Way()}),
        ("link_use", answer("Birch Hill"), ITEM, "item", {"way": NOTHING}),
        # Another kind of thing: a name where all cells are numbers.
        ("misunderstanding", answer("Klow"), b"642000\n", "item", {"way": read("Klow has 642,000 people")}),
        (None, answer("Birch Hill"), ITEM, "item", {}),
        (None, "", ITEM, "item", {"outcome": "infra_error"}),
        (None, answer("Encke", "Halley", "Swift"), SET, "set", {"way": read("Encke, Halley and Swift")}),
    ],
)  # fmt: skip
def test_each_rule_by_hand(cause, prediction, gold, kind, known):
    assert label(prediction, gold, kind, **known).cause == cause


def test_the_most_frequent_cause_of_a_table_counts():
    # Populations were read and are wrong (two cells), the one capital is on a page never opened.
    prediction = answer("Syldavia\t1\tKlow", "Borduria\t2\tX", header="Country\tPopulation\tCapital")
    way = Way(["q"], [PAGE], ["s"], [[OTHER]], [searchable("642,000 in Syldavia, 1,204,311 in Borduria")])
    found = label(prediction, TABLE, "table", way=way, human_urls=[PAGE])
    assert found.cause == "extraction"
    assert found.why.startswith("2 of 3 wrong cells")


def test_of_equal_causes_the_first_on_the_way_counts():
    way = Way(["q"], [PAGE], ["s"], [[OTHER]], ["encke"])
    assert label("", SET, "set", way=way, human_urls=[PAGE], outcome="budget").cause == "link_use"


def test_the_published_shares_are_those_of_63_errors():
    assert tuple(PUBLISHED_SHARES) == CAUSES == tuple(MEANINGS)
    counts = [round(share * 63 / 100) for share in PUBLISHED_SHARES.values()]
    assert counts == [20, 11, 11, 10, 9, 2]
    assert sum(counts) == 63
    assert [round(100 * count / 63, 1) for count in counts] == list(PUBLISHED_SHARES.values())


@given(
    st.text(max_size=60),
    st.binary(max_size=40),
    st.sampled_from(["item", "set", "list", "table"]),
    st.text(max_size=40),
)
def test_a_label_is_given_whatever_the_texts(prediction, gold, kind, page):
    found = label_error(WrongAnswer(prediction, gold, kind, way=Way(["q"], [PAGE], [page], [[PAGE]], [page])))
    assert found.cause in (None, *CAUSES)
    assert found.why
