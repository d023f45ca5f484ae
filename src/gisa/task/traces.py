"""Turn the human traces of a suite into demonstrations, and show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.gisa.dataset.gisa import Gisa, load_suite
from src.gisa.task.learning import NEEDED
from src.launch.config import build
from src.launch.errors import InputError
from src.launch.progress import Line, tracked
from src.launch.record import Record
from src.launch.storage import write_atomic
from src.launch.values import Count

if TYPE_CHECKING:
    from src.gisa.batches.demonstrations import Demonstration

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Demonstrations</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f5f5; padding: .8rem; color: #444; }}
mark {{ background: #ffe08a; color: #000; }}
td, th {{ text-align: left; padding: .1rem 1.2rem .1rem 0; vertical-align: top; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #181818; color: #ddd; }}
pre {{ background: #222; color: #aaa; }} mark {{ background: #6b5200; color: #fff; }} }}
</style></head><body>
<h1>Demonstrations</h1>
<p>What a model learns is <mark>highlighted</mark>; all else it only reads. Control tokens are shown as they are.</p>
<table>{statistics}</table>
{demonstrations}
</body></html>
"""


class TracesTask:
    """Write ``traces.html`` into the run folder: statistics, and demonstrations with what is learnt highlighted.

    Args:
        max_tokens: Most tokens of a sequence.
        max_shown: Demonstrations on the page, spread evenly over all.
        allow_train_on_benchmark: Whether questions that are there to test with may become demonstrations.
    """

    needs: tuple[str, ...] = ("dataset", "agent")

    def __init__(self, *, max_tokens: Count, max_shown: Count, allow_train_on_benchmark: bool) -> None:
        self.max_tokens = max_tokens
        self.max_shown = max_shown
        self.allow_train_on_benchmark = allow_train_on_benchmark

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Make the demonstrations, count, write.

        Raises:
            InputError: the data set is no suite of questions, the policy has no tokenizer, or there may be no
                demonstrations.
        """
        from src.gisa.agent.heuristic import HeuristicPolicy
        from src.gisa.agent.rollout import rollout_with
        from src.gisa.batches.demonstrations import make_demonstrations
        from src.gisa.chat.format import load_chat_format

        with Line("Reading the questions"):
            suite = load_suite(config["dataset"], NEEDED)
        name = config["agent"]["policy"].get("name")
        if name is None:
            raise InputError(
                f"agent.policy is {config['agent']['policy']['_target_']}, which has no tokenizer of its own. Type one "
                "that has:\n  agent/policy=smollm2, or agent/policy=local agent.policy.name=<hub name or folder>"
            )
        chat = load_chat_format(build(name) if isinstance(name, dict) else name)
        rollout = rollout_with(HeuristicPolicy(), config["agent"])  # which is not asked, and without weights
        record.lap("prepare")
        made = make_demonstrations(
            suite, rollout, chat, max_tokens=self.max_tokens, allow_train_on_benchmark=self.allow_train_on_benchmark
        )
        record.lap("demonstrations")
        lengths = sorted(len(demonstration.marked.tokens) for demonstration in made.demonstrations)
        counts = {
            "questions": len(suite.questions),
            **made.counts,
            "longest": lengths[-1] if lengths else 0,
            "drills": len(made.drills),
            "drill_tokens": sum(len(drill.marked.tokens) for drill in made.drills),
            "answer_not_wholly_shown": sum(demonstration.shown < 1 - 1e-9 for demonstration in made.demonstrations),
        }
        dropped = {reason: len(ids) for reason, ids in made.dropped.items()}
        count = min(self.max_shown, len(lengths))
        shown = [made.demonstrations[at * len(lengths) // count] for at in range(count)]
        drills = [*made.drills[:1], *made.drills[1:][-1:]]  # a block of the first kind, one of the last
        examples = tracked([*shown, *drills], "Drawing demonstrations", len(shown) + len(drills))
        page = _PAGE.format(
            statistics="".join(_rows(counts, made.dropped)),
            demonstrations="\n".join(_shown(example, suite, chat.tokenizer) for example in examples),
        )
        write_atomic(folder / "traces.html", page)
        record.finish(
            metrics={f"demonstrations/{key}": count for key, count in counts.items()},
            dropped=dropped,
            protocol=suite.protocol,
        )

    def show(self, record: Record) -> None:
        """Say where the page is."""
        print(f"\n{record.path.parent / 'traces.html'}")


def _rows(counts: Mapping[str, int], dropped: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for key, count in counts.items():
        yield f"<tr><th>{escape(key.replace('_', ' '))}</th><td>{count:,}</td></tr>"
    for reason, ids in dropped.items():
        names = ", ".join(ids[:20]) + (" ..." if len(ids) > 20 else "")
        yield f"<tr><th>dropped</th><td>{len(ids):,}: {escape(reason)} ({escape(names)})</td></tr>"


def _shown(demonstration: Demonstration, suite: Gisa, tokenizer: Any) -> str:
    marked = demonstration.marked
    entities = suite.metadata.get(demonstration.question_id, {}).get("entities", ())
    return (
        f"<h2>{escape(demonstration.question_id)}</h2>\n<p>{len(marked.tokens)} tokens, {sum(marked.trained)} of them "
        f"learnt; {demonstration.shown:.0%} of the answer is shown. {escape(', '.join(entities))}</p>\n"
        f"<pre>{_highlighted(tokenizer, marked.tokens, marked.trained)}</pre>"
    )


def _highlighted(tokenizer: Any, tokens: Sequence[int], trained: Sequence[bool]) -> str:
    """Write tokens as HTML, those that are learnt as marks: decoded each run by itself, as the model gets them."""
    parts = []
    for learnt, run in groupby(zip(tokens, trained, strict=True), key=lambda pair: pair[1]):
        text = escape(tokenizer.decode([token for token, _ in run]))
        parts.append(f"<mark>{text}</mark>" if learnt else text)
    return "".join(parts)
