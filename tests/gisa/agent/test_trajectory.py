import asyncio
import json

import pytest

from src.gisa.agent.cost import Account, Charge
from src.gisa.agent.trajectory import Attempt, Episode, Journal, Verdict

ATTEMPT = Attempt("7", 0, "Which?", "item")


def opened(path):
    return Journal(path, path.open("a+b")) if not path.exists() else Journal(path, path.open("r+b"))


def take(journal, key, value, *charges, account=None):
    """Take a step that gives ``value`` and return what the journal says and whether it was carried out."""
    carried_out = []

    async def make(step):
        carried_out.append(key)
        for charge in charges:
            step.charge(charge)
        if isinstance(value, Exception):
            step.failures.append("first attempt")
            raise value
        return value

    return asyncio.run(journal.step(key, account or Account("question", None), make)), bool(carried_out)


def test_a_step_is_carried_out_once_and_read_back_after_a_restart(tmp_path):
    path = tmp_path / "e.jsonl"
    with opened(path) as journal:
        assert take(journal, "reply/0", {"text": "Zoë \ud800"}) == ({"text": "Zoë \ud800"}, True)
        assert take(journal, "reply/0", "other") == ({"text": "Zoë \ud800"}, False)
    with opened(path) as journal:
        assert take(journal, "reply/0", "other") == ({"text": "Zoë \ud800"}, False)
        assert take(journal, "reply/1", "next") == ("next", True)


def test_every_length_a_kill_can_leave_is_read_and_only_the_cut_line_is_lost(tmp_path):
    path = tmp_path / "e.jsonl"
    with opened(path) as journal:
        take(journal, "a", 1)
        take(journal, "b", 2)
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = sum(end <= length for end in ends)  # opened, a, b
        with opened(path) as journal:
            assert take(journal, "a", 1)[1] == (whole < 2)
            assert take(journal, "b", 2)[1] == (whole < 3)
        assert [json.loads(line).get("value", 0) for line in path.read_bytes().splitlines()].count(2) == 1


def test_a_failed_step_is_noted_with_its_attempts_and_tried_again(tmp_path):
    path = tmp_path / "e.jsonl"
    with opened(path) as journal, pytest.raises(ConnectionError):
        take(journal, "reply/0", ConnectionError("gone"), Charge("chain", usd=0.5))
    with opened(path) as journal:
        assert take(journal, "reply/0", "text", Charge("chain", usd=0.25))[1]
        assert journal.spent_usd == 0.75
        failed, passed = [line for line in journal.lines if "key" in line]
    assert failed["error"] == "ConnectionError: gone"
    assert failed["failures"] == ["first attempt"]
    assert passed["failures"] == []


def test_the_record_sums_tokens_and_prices_by_part_and_leaves_the_question_out(tmp_path):
    with opened(tmp_path / "e.jsonl") as journal:
        take(journal, "reply/0", "x", Charge("chain", 10, 2, 0.25))
        take(journal, "call/0/0", "y", Charge("search", usd=0.125), Charge("extractor", 30, 5, None))
        take(journal, "reply/1", "z", Charge("chain", 20, 3, 0.5))
        verdict = Verdict("answered", prediction="Lima")
        record = Episode(ATTEMPT, journal, None, None, counts={"turns": 2}, verdict=verdict).record()
    assert record["spent"] == {
        "chain": {"calls": 2, "prompt_tokens": 30, "completion_tokens": 5, "usd": 0.75},
        "search": {"calls": 1, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0.125},
        "extractor": {"calls": 1, "prompt_tokens": 30, "completion_tokens": 5, "usd": None},
    }
    assert (record["outcome"], record["prediction"], record["reason"]) == ("answered", "Lima", "")
    assert [step["key"] for step in record["steps"]] == ["reply/0", "call/0/0", "reply/1"]
    assert "Which?" not in json.dumps(record)
