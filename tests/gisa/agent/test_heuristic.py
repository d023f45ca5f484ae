import asyncio
from dataclasses import replace

import pytest

from src.gisa.agent.backends import EmbeddedWeb
from src.gisa.agent.cost import Account
from src.gisa.agent.heuristic import HeuristicPolicy
from src.gisa.agent.react import Budget, ReActAgent
from src.gisa.agent.tools import Toolbox
from src.gisa.agent.trajectory import Attempt, Episode, Journal
from src.gisa.agent.web import Web
from src.gisa.dataset.factbook.pages import factbook_web
from src.gisa.dataset.factbook.suite import factbook
from src.gisa.metrics.answers import official_score


@pytest.fixture(scope="module")
def agent():
    web = factbook_web()
    toolbox = Toolbox(search=EmbeddedWeb(web), pages=EmbeddedWeb(web))
    return ReActAgent(policy=HeuristicPolicy(), toolbox=toolbox, budget=Budget(), today="2024-07-01")


def answer(agent, text, answer_type, path):
    async def main():
        with Journal(path, path.open("w+b")) as journal:
            episode = Episode(Attempt("1", 0, text, answer_type), journal, Account("question", None), Web())
            return await agent.answer(episode), episode.counts

    return asyncio.run(main())


def test_every_question_is_answered_exactly_from_pages_that_were_read_or_exceeds_the_budget(agent, tmp_path):
    data = factbook()
    answered = []
    for question in data.questions:
        verdict, counts = answer(agent, question.text, question.answer_type, tmp_path / question.id)
        assert counts["calls"] <= 30
        if verdict.outcome == "budget":
            assert data.metadata[question.id]["hops"] >= 14  # two calls a page
        else:
            scores = official_score(verdict.prediction, data.gold(question), question.answer_type)
            assert (verdict.outcome, scores["global_em"]) == ("answered", 1), question.text
            assert counts["visits"] == counts["urls"] >= data.metadata[question.id]["hops"]
            answered.append(data.metadata[question.id]["family"])
    assert len(answered) > 300
    assert len(set(answered)) == 20


def test_a_page_that_the_search_does_not_show_is_reached_by_the_contents(agent, tmp_path):
    _, counts = answer(agent, "Which country of Africa has the largest population?", "item", tmp_path / "a")
    assert counts["failed_urls"] == 0
    assert counts["calls"] == 30  # the list of countries was found, and is longer than the budget


def test_other_words_are_not_understood_and_no_answer_is_made_up(agent, tmp_path):
    verdict, counts = answer(agent, "Tell me about Peru.", "item", tmp_path / "a")
    assert (verdict.outcome, counts["calls"]) == ("format_error", 0)
    verdict, _ = answer(agent, "What is the capital of Atlantis?", "item", tmp_path / "b")
    assert (verdict.outcome, verdict.prediction) == ("format_error", "I cannot find the page 'Atlantis: Government'.")
    verdict, _ = answer(agent, "What is the capital of Benin?", "item", tmp_path / "c")  # it has two
    assert verdict.prediction == "The pages do not say."


def test_error_rate_take_another_page_of_the_section_by_chance_and_the_same_one_when_repeated(agent, tmp_path):
    data = factbook()
    question = next(one for one in data.questions if one.answer_type == "table")

    def given(error_rate, name, seed=1):
        erring = replace(agent, policy=HeuristicPolicy(error_rate=error_rate, seed=seed))
        return answer(erring, question.text, "table", tmp_path / name)[0].prediction

    right = answer(agent, question.text, "table", tmp_path / "right")[0].prediction
    assert given(0.0, "1.0.events.jsonl") == right
    attempts = [given(0.5, f"1.{sample}.events.jsonl") for sample in range(8)]
    assert 0 < sum(one == right for one in attempts) < 8
    assert attempts[3] == given(0.5, "1.3.events.jsonl")
    assert given(1.0, "1.0.events.jsonl") != right
