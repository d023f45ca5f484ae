"""Reasoning within a text, in the marks of many models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.agent.completions import without_thinking

ENDS = [
    ("<think>", "</think>"),
    ("<Thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
]
PLAIN = st.text(st.characters(exclude_characters="<[◁>]▷"), max_size=30)


@pytest.mark.parametrize(("begin", "end"), ENDS)
@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{0}a{1}b", "b"),  # closed
        ("a{1}b", "b"),  # the template had opened it
        ("b{0}a", "b"),  # never closed
        ("{0}a", ""),
        ("{0}a{0}b{1}c", "c"),
        ("x{0}a{1}y{0}b{1}z", "xyz"),
        ("a < b, a[0] and </tag>", "a < b, a[0] and </tag>"),
    ],
)
def test_reasoning_is_taken_out_however_it_is_marked(begin, end, written, said):
    assert without_thinking(written.format(begin, end)) == said


@pytest.mark.parametrize(
    "call",
    [
        "<|channel|>commentary to=functions.search <|constrain|>json<|message|>{}<|call|>",
        "<|channel|>analysis to=functions.search code<|message|>{}<|call|>",
        " to=functions.search<|channel|>commentary json<|message|>{}<|call|>",
    ],
)
def test_a_call_of_gpt_oss_is_no_thought(call):
    assert without_thinking(f"<|channel|>analysis<|message|>a<|end|><|start|>assistant{call}") == call
    assert without_thinking(f"{call}<|start|>assistant<|channel|>final<|message|>Lima").endswith("Lima")


def test_marks_around_the_answer_are_none_of_it():
    text = "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>Lima<|END_RESPONSE|>"
    assert without_thinking(text) == "Lima"


def test_thoughts_of_gpt_oss_without_its_marks_are_taken_out():
    assert without_thinking("analysisI look.assistantfinalLima") == "Lima"


@given(PLAIN, PLAIN, PLAIN, st.sampled_from(ENDS))
def test_no_thought_is_left_and_no_word_is_lost(before, thought, after, ends):
    begin, end = ends
    assert without_thinking(f"{before}{begin}{thought}{end}{after}") == before + after
    assert without_thinking(before + after) == before + after
    assert without_thinking(f"{thought}{end}{after}") == after
