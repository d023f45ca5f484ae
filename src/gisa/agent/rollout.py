"""Many episodes at once: a bounded number under way, results on disk as they end, nothing kept in memory."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.gisa.agent.cache import Cache
from src.gisa.agent.cost import Account, CeilingReachedError, PriceList
from src.gisa.agent.pages import PageSource
from src.gisa.agent.policy import Policy
from src.gisa.agent.prompts import Instructions
from src.gisa.agent.react import Budget, Episode, ReActAgent
from src.gisa.agent.replay import Replayed, Script, recall, replay
from src.gisa.agent.search import SearchEngine
from src.gisa.agent.store import RunStore
from src.gisa.agent.tools import Toolbox
from src.gisa.agent.trajectory import Attempt, Journal, record_of
from src.gisa.agent.web import Web
from src.launch.errors import InputError


class Rollout:
    """An agent, its connections, and how much of time and money it may take.

    Attributes:
        prices: Of models.
        manifest: Manifest of the demonstrations behind the policy's weights, where it knows of any; see
            ``LocalPolicy``.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        search: SearchEngine | None,
        pages: PageSource | None,
        extractor: Policy | None,
        cache: Cache | None,
        prices: PriceList,
        budget: Budget,
        web: Web,
        today: str,
        instructions: Instructions = "full",
        results: int,
        max_urls: int,
        page_chars: int,
        episode_timeout_s: float,
        concurrency: int,
        question_usd: float | None,
        run_usd: float | None,
    ) -> None:
        """Put the agent together; see ``ReActAgent``, ``Toolbox`` and ``roll_out`` for the settings.

        Raises:
            InputError: there is a search without pages, or the other way round.
        """
        if (search is None) != (pages is None):
            raise InputError(
                "agent.search and agent.pages go together: give both for an agent with tools, as in\n"
                "  agent/search=serper agent/pages=direct\nor neither for one answer without tools:  agent=single_shot"
            )
        toolbox = None
        if search and pages:
            toolbox = Toolbox(
                search=search,
                pages=pages,
                extractor=extractor,
                cache=cache,
                results=results,
                max_urls=max_urls,
                page_chars=page_chars,
            )
        self.prices = prices
        self.manifest = getattr(policy, "manifest", None)
        self._agent = ReActAgent(
            policy=policy,
            toolbox=toolbox,
            budget=budget,
            today=today,
            instructions=instructions,
            episode_timeout_s=episode_timeout_s,
        )
        self._web = web
        self._concurrency = concurrency
        self._question_usd = question_usd
        self._run_usd = run_usd

    def run(self, tasks: Iterable[Attempt], store: RunStore, *, processes: int = 1) -> Counter[str]:
        """Answer what the store does not hold yet; see ``roll_out``."""

        async def main() -> Counter[str]:
            async with self._web as web:
                return await roll_out(
                    self._agent,
                    tasks,
                    store,
                    web,
                    concurrency=self._concurrency,
                    question_usd=self._question_usd,
                    run_usd=self._run_usd,
                    processes=processes,
                )

        return asyncio.run(main())

    def attempt(self, tasks: Sequence[Attempt]) -> list[dict[str, Any]]:
        """Answer in memory and all at once, with the budget and the accounts of ``run`` but no ceiling of the run.

        Returns:
            The records as the store would keep them. A journal's steps are named ``<question>.<sample>/reply/<turn>``.
        """

        async def one(task: Attempt, web: Web) -> dict[str, Any]:
            with Journal(Path(f"{task.question_id}.{task.sample}"), io.BytesIO()) as journal:
                episode = Episode(task, journal, Account("question", self._question_usd), web)
                verdict = await self._agent.answer(episode)
                return record_of(task, verdict, journal, episode.counts)

        async def main() -> list[dict[str, Any]]:
            async with self._web as web:
                return await asyncio.gather(*(one(task, web) for task in tasks))

        return asyncio.run(main())

    def replay(self, scripts: Iterable[Script]) -> list[Replayed]:
        """Act out given conversations, one after the other; see ``src.gisa.agent.replay``."""

        async def main() -> list[Replayed]:
            async with self._web as web:
                return [await replay(self._agent, script, web) for script in scripts]

        return asyncio.run(main())

    def recall(self, episodes: Iterable[tuple[Attempt, Mapping[str, Any]]]) -> list[Replayed]:
        """Go through recorded episodes again, each given with what was asked; see ``src.gisa.agent.replay``."""

        async def main() -> list[Replayed]:
            return [await recall(self._agent, task, record, self._web) for task, record in episodes]

        return asyncio.run(main())


async def roll_out(
    agent: ReActAgent,
    tasks: Iterable[Attempt],
    store: RunStore,
    web: Web,
    *,
    concurrency: int,
    question_usd: float | None = None,
    run_usd: float | None = None,
    processes: int = 1,
) -> Counter[str]:
    """Answer what the store does not hold yet.

    Args:
        agent: Answers.
        tasks: What to answer; read as needed.
        store: Where the records go.
        web: The connections, open.
        concurrency: Most episodes under way at once.
        question_usd: Ceiling of one question; None for none.
        run_usd: Ceiling of the whole run, resumes included; None for none.
        processes: How many processes share the run's ceiling; what is left of it is divided among them.

    Returns:
        How many episodes ended here, by outcome; under ``passed_over`` those that were complete, or elsewhere in work.

    Raises:
        InputError: the run's ceiling is reached, or something the user gave is wrong. Ended episodes are on disk.
    """
    spent_usd = store.spent_usd() if run_usd is not None else 0.0
    share_usd = None if run_usd is None else max(0.0, run_usd - spent_usd) / processes
    run = Account("run", share_usd)
    outcomes: Counter[str] = Counter()
    waiting = iter(tasks)

    async def work() -> None:
        for task in waiting:
            journal = store.open_journal(task)
            if journal is None:
                outcomes["passed_over"] += 1
                continue
            with journal:
                account = Account("question", question_usd, run, spent_usd=journal.spent_usd)
                episode = Episode(task, journal, account, web)
                verdict = await agent.answer(episode)
                # The disk takes its time to confirm, in which the other episodes go on.
                await asyncio.to_thread(store.finish, task, record_of(task, verdict, journal, episode.counts))
            outcomes[verdict.outcome] += 1

    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    except CeilingReachedError as error:
        raise InputError(
            f"The run stops at its ceiling: {run_usd} USD, of which {spent_usd + run.spent_usd:.4f} are spent.\n"
            f"{sum(outcomes.values())} episodes are done. To go on, resume with a higher agent.run_usd."
        ) from error
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return outcomes
