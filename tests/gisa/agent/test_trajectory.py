import asyncio
import json
import multiprocessing
import os
import signal
import time

import pytest

from src.gisa.agent.cost import Account, Charge
from src.gisa.agent.trajectory import Attempt, Episode, Journal, RunStore, Verdict, all_alike
from src.launch.errors import InputError

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


def test_a_journal_knows_what_was_done_and_what_it_cost(tmp_path):
    path = tmp_path / "e.jsonl"
    with opened(path) as journal:
        take(journal, "reply/0", "x", Charge("chain", 3, 2))
        with pytest.raises(ConnectionError):
            take(journal, "reply/1", ConnectionError("gone"), Charge("chain", 9, 9))
    with opened(path) as journal:
        assert (journal.holds("reply/0"), journal.holds("reply/1")) == (True, False)
        assert [charge["prompt_tokens"] for charge in journal.charges("reply/0")] == [3]
        assert journal.charges("reply/1") == []


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


@pytest.mark.parametrize("damage", [b"\0\0\0", b'{"key": "b", "val', b"\xff", b"null", b"[1]"])
def test_a_damaged_line_is_lost_with_all_behind_it_and_what_comes_before_stays(tmp_path, damage):
    store = RunStore(tmp_path, SETTINGS)
    with store.open_journal(attempt()) as journal:
        for key in "abc":
            take(journal, key, key, Charge("chain", 1, 1, usd=1.0))
        path = journal.path
    lines = path.read_bytes().splitlines()  # the second is of step a
    path.write_bytes(b"\n".join([*lines[:2], damage, *lines[3:]]) + b"\n")
    assert store.spent_usd() == 1
    with store.open_journal(attempt()) as journal:
        assert [take(journal, key, key)[1] for key in "abc"] == [False, True, True]
    assert [json.loads(line).get("key") for line in path.read_bytes().splitlines()] == [None, "a", None, "b", "c"]


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


SETTINGS = {"policy": {"model": "m"}, "budget": {"max_calls": 30}}


def attempt(question_id="7", sample=0):
    return Attempt(question_id, sample, "Which?", "item")


def work(store, one, steps=1, pause_s=0.0, outcome="answered"):
    """Do an episode of a few steps, each a charge of 1 USD; return whether there was something to do."""

    async def make(step):
        step.charge(Charge("chain", usd=1.0))
        return "x"

    journal = store.open_journal(one)
    if journal is None:
        return False
    with journal:
        for number in range(steps):
            asyncio.run(journal.step(f"reply/{number}", Account("question", None), make))
            time.sleep(pause_s)
        store.finish(Episode(one, journal, None, None, counts={}, verdict=Verdict(outcome, prediction="p")))
    return True


def test_an_ended_episode_is_complete_and_leaves_one_file(tmp_path):
    store = RunStore(tmp_path, SETTINGS)
    assert not store.is_complete(attempt())
    assert work(store, attempt())
    assert store.is_complete(attempt())
    assert not work(store, attempt())
    assert [path.name for path in store.folder.iterdir()] == ["7.0.json"]
    assert [record["question_id"] for record in store.records()] == ["7"]


@pytest.mark.parametrize("left", [*(slice(length) for length in (0, 1, 40)), b"null", b"[]", b"{}"])
def test_a_torn_record_is_none_and_its_episode_is_done_again(tmp_path, left):
    store = RunStore(tmp_path, SETTINGS)
    work(store, attempt())
    path = store.folder / "7.0.json"
    path.write_bytes(path.read_bytes()[left] if isinstance(left, slice) else left)
    assert not store.is_complete(attempt())
    assert store.spent_usd() == 0
    assert work(store, attempt())
    assert store.is_complete(attempt())


def test_an_infrastructure_failure_is_taken_up_where_it_ended(tmp_path):
    store = RunStore(tmp_path, SETTINGS)
    work(store, attempt(), steps=2, outcome="infra_error")
    assert not store.is_complete(attempt())
    assert store.spent_usd() == 2
    assert work(store, attempt(), steps=3)
    (record,) = store.records()
    assert (len(record["steps"]), len(record["opened"]), record["outcome"]) == (3, 2, "answered")
    assert store.spent_usd() == 3


def test_other_settings_are_refused_and_named(tmp_path):
    RunStore(tmp_path, SETTINGS)
    RunStore(tmp_path, {"budget": {"max_calls": 30}, "policy": {"model": "m"}})  # the order is no difference
    with pytest.raises(InputError, match=r"these differ: budget, extra\.\n.*start in a new folder"):
        RunStore(tmp_path, {**SETTINGS, "budget": {"max_calls": 10}, "extra": 1})


def test_samples_and_awkward_ids_have_files_of_their_own(tmp_path):
    store = RunStore(tmp_path, SETTINGS)
    named = ["7", "../7", "a/b", ".7", "é" * 300, "7.0", ""]
    attempts = [attempt("7", 1), *map(attempt, named)]
    assert all([work(store, one) for one in attempts])
    assert {(record["question_id"], record["sample"]) for record in store.records()} == {
        (one.question_id, one.sample) for one in attempts
    }
    assert [path.name for path in tmp_path.iterdir()] in (["agent.json", "episodes"], ["episodes", "agent.json"])


def test_a_journal_is_open_in_one_place_at_a_time(tmp_path):
    store = RunStore(tmp_path, SETTINGS)
    with store.open_journal(attempt()) as journal:
        assert journal is not None
        assert RunStore(tmp_path, SETTINGS).open_journal(attempt()) is None
    with store.open_journal(attempt()) as journal:
        assert journal is not None


def test_a_kill_between_record_and_journal_changes_nothing(tmp_path):
    store = RunStore(tmp_path, SETTINGS)
    with store.open_journal(attempt()):
        pass
    journal = (store.folder / "7.0.events.jsonl").read_bytes()
    work(store, attempt())
    (store.folder / "7.0.events.jsonl").write_bytes(journal)
    assert not work(store, attempt())
    assert [path.name for path in store.folder.iterdir()] == ["7.0.json"]


def _work_through(folder, count, pause_s):
    store = RunStore(folder, SETTINGS)
    for number in range(count):
        work(store, attempt(str(number)), steps=3, pause_s=pause_s)


def test_processes_share_a_run_and_a_killed_one_leaves_its_episode_to_the_others(tmp_path):
    context = multiprocessing.get_context("fork")
    victim = context.Process(target=_work_through, args=(tmp_path, 8, 0.01))
    victim.start()
    while not list((tmp_path / "episodes").glob("*.events.jsonl")):
        assert victim.is_alive()
        os.sched_yield()
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    others = [context.Process(target=_work_through, args=(tmp_path, 8, 0.0)) for _ in range(2)]
    for process in others:
        process.start()
    for process in others:
        process.join()
    store = RunStore(tmp_path, SETTINGS)
    records = list(store.records())
    assert [record["question_id"] for record in records] == [str(number) for number in range(8)]
    assert all([step["key"] for step in record["steps"]] == ["reply/0", "reply/1", "reply/2"] for record in records)
    assert store.spent_usd() == 8 * 3
    assert not list(store.folder.glob("*.events.jsonl"))


def test_records_are_valid_json_of_known_keys(tmp_path):
    store = RunStore(tmp_path, SETTINGS)
    work(store, attempt())
    record = json.loads((store.folder / "7.0.json").read_bytes())
    assert record.keys() == {
        *("question_id", "sample", "answer_type", "outcome", "reason", "prediction"),
        *("counts", "contaminated", "spent", "seconds", "opened", "steps"),
    }


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([("truncated", "9 tokens"), ("truncated", "x"), ("truncated", "x")],
         "All 3 episodes ended as truncated, such as: x. The scores say no more than that. Give replies room (agent."),
        ([("budget", "")] * 2, "All 2 episodes ended as budget. The scores say no more than that. Look in page.html"),
        ([("truncated", "x"), ("answered", "")], None),
        ([("answered", "")] * 3, None),
        ([(None, "")] * 3, None),  # another harness's answers
        ([("truncated", "x")], None),  # one tells nothing of all
        ([], None),
    ],
)  # fmt: skip
def test_episodes_that_all_end_alike_without_an_answer_are_named_with_what_to_do(ends, said):
    found = all_alike(iter(ends))
    assert found == [] if said is None else found[0].startswith(said)
