"""A suite of one question of each type on the embedded web, and a small model whose tokens are the words of it."""

from src.gisa.agent.backends import EmbeddedWeb
from src.gisa.agent.cost import PriceList
from src.gisa.agent.heuristic import HeuristicPolicy
from src.gisa.agent.react import Budget
from src.gisa.agent.rollout import Rollout
from src.gisa.agent.web import Web
from src.gisa.batches.demonstrations import make_demonstrations
from src.gisa.chat.format import ChatFormat
from src.gisa.dataset.factbook.pages import factbook_web
from src.gisa.dataset.factbook.suite import factbook_set
from tests.gisa.chat_models import PLAIN, tokenizer, write_folder

# Two pages at most, and little to read of each: demonstrations of some 700 tokens.
AGENT = ("agent.results=1", "agent.page_chars=300")


def agent(corpus, max_calls=8, instructions="full"):
    return Rollout(
        policy=HeuristicPolicy(), search=EmbeddedWeb(corpus), pages=EmbeddedWeb(corpus), extractor=None,
        cache=None, prices=PriceList(date="2026-01-31", models={}), budget=Budget(max_calls=max_calls), web=Web(),
        today="2024-07-01", instructions=instructions, results=3, max_urls=5, page_chars=1500, episode_timeout_s=60,
        concurrency=1, question_usd=None, run_usd=None,
    )  # fmt: skip


def small_suite(split="train", max_pages=2):
    """Four questions, one of each type."""
    return factbook_set(split, per_type=1, max_pages=max_pages)


def small_model(folder, suite, width=64):
    """Save a model of random weights that has a token for every frequent word of the suite's demonstrations."""
    demonstrations = make_demonstrations(
        suite, agent(factbook_web()), ChatFormat(tokenizer(PLAIN)), max_tokens=10**6
    ).demonstrations
    texts = [demonstration.marked.text for demonstration in demonstrations]
    return write_folder(folder, PLAIN, texts=texts, width=width, spread=width**-0.5)


def command(place, *overrides):
    """The start of a command line that trains the small model in full on three of four demonstrations."""
    return [
        "+experiment=gisa_imitation", "logger=none", "dataset=gisa", f"dataset.root={place / 'train'}", *AGENT,
        "model=hub", f"model.name={place / 'model'}", "model.dtype=float32", "model.lora=null",
        "batches.training_questions=null", "batches.validation_questions=1", "batches.batch_size=3",
        "trainer.precision=32-true", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
        "trainer.log_every_n_steps=1", "stage.learning_rate=3e-3", "batches.drills=0", *overrides,
    ]  # fmt: skip


def rollout(place, *overrides):
    """The start of a command line that lets a model answer the questions that it may have learnt."""
    return [
        "+experiment=gisa_rollout", "logger=none", "dataset=gisa", f"dataset.root={place / 'train'}",
        "evaluator.resamples=50", *overrides,
    ]  # fmt: skip
