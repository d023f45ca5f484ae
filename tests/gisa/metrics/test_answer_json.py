import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.metrics.answer_json import json_records

TABLE = [["Name", "Pop"], ["Lima", "10.0"], ["Ica", ""]]


@pytest.mark.parametrize(
    ("text", "records"),
    [
        ('[{"Name": "Lima", "Pop": 10.0}, {"Name": "Ica"}]', TABLE),
        (' {"rows": [{"Name": "Lima", "Pop": 10.0}, {"Name": "Ica", "Pop": null}]}', TABLE),
        ('[["Name", "Pop"], ["Lima", 10.0], ["Ica", null]]', TABLE),
        ('{"Name": ["Lima", "Ica"], "Pop": [10.0, ""]}', TABLE),
        ('{"columns": ["Name", "Pop"], "data": [["Lima", 10.0], ["Ica", null]]}', TABLE),
        ('["a", "b"]', [[""], ["a"], ["b"]]),
        ('{"answer": ["a", 1]}', [[""], ["a"], ["1"]]),
        ('{"answer": "a"}', [["answer"], ["a"]]),
        ('{"Name": "Lima", "Pop": 10}', [["Name", "Pop"], ["Lima", "10"]]),
        ('{"Name": "Lima", "Of": ["Peru", 1], "In": {"a": true}}',
         [["Name", "Of", "In"], ["Lima", "Peru, 1", '{"a": true}']]),
        ("[" + "9" * 5000 + "]", [[""], ["9" * 5000]]),
        ('"a"', []), ("7", []), ("[]", []), ("{}", []), ("[a]", []), ('["a"', []), ("a", []), ("", []),
        ("[" * 100_000, []),
        (json.dumps([{str(number): 1} for number in range(2_000)]), []),  # four million cells
    ],
)  # fmt: skip
def test_json_of_any_shape_becomes_records(text, records):
    assert json_records(text) == records


CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(CONTENT | st.fixed_dictionaries({"columns": CONTENT, "data": CONTENT}))
def test_all_records_are_lists_of_text(content):
    records = json_records(json.dumps(content))
    assert all(isinstance(cell, str) for record in records for cell in record)


WORD = st.text("abc", min_size=1, max_size=3)


@given(st.lists(WORD, min_size=1, max_size=3, unique=True), st.data())
def test_a_table_is_the_same_in_every_shape(names, data):
    rows = data.draw(st.lists(st.lists(WORD, min_size=len(names), max_size=len(names)), min_size=2, max_size=4))
    for content in (
        [dict(zip(names, row, strict=True)) for row in rows],
        [names, *rows],
        {"columns": names, "data": rows},
        {"answer": [names, *rows]},
    ):
        assert json_records(json.dumps(content, indent=1)) == [names, *rows]
