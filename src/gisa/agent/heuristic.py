"""A policy of rules that knows the embedded suite's wordings: no model, but a test of everything around one."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from urllib.parse import urljoin

from src.gisa.agent.policy import Reply, Request, ScriptedPolicy
from src.gisa.chat.format import Message
from src.gisa.dataset.factbook.families import understand
from src.gisa.dataset.factbook.pages import page_listing, page_with
from src.gisa.dataset.factbook.records import BY_KEY, NoAnswerError
from src.launch.values import Seed, Share

_PAGE = re.compile(r"^Page \S+\n<untrusted>\n(?:# )?(.*?)\n+(.*?)\n</untrusted>", re.DOTALL | re.MULTILINE)
_HIT = re.compile(r"^\d+\. (.*)\n(https?://\S+)$", re.MULTILINE)
_LINK = re.compile(r"^- \[(.+)\]\((https?://\S+)\)$", re.MULTILINE)


class HeuristicPolicy:
    """Recognises the family of a question, then searches for and visits the pages that its procedure asks for.

    It is the plumbing's baseline: what it answers comes from pages it has read through the tools, but it could not
    read a question in any other words.
    """

    def __init__(self, *, error_rate: Share = 0.0, seed: Seed = 1) -> None:
        """Set how well it does.

        Args:
            error_rate: Chance that it takes, for a page it needs, the first other one of that section among the results
                of its searches: attempts at a question then differ, as those of a model do.
            seed: Of the errors; which ones are made also depends on question, attempt and page.
        """
        self._error_rate, self._seed = error_rate, seed

    async def reply(self, request: Request) -> Reply:
        """See ``Policy``."""
        episode = request.step.name.partition("/")[0]  # the same in each of its steps

        def errs_at(title: str) -> bool:
            return random.Random(f"{self._seed} {episode} {title}").random() < self._error_rate

        script = ScriptedPolicy(lambda said: _say(said, errs_at))
        return await script.reply(request)


class _PageNeededError(Exception):
    """A page that has to be read before the procedure can go on; the message is its title."""


class _PagesRead:
    """The pages and search results of a conversation so far; an ``answers.Reader``."""

    def __init__(self, messages: Sequence[Message], errs_at: Callable[[str], bool]) -> None:
        self._errs_at = errs_at
        results = [str(message["content"]) for message in messages if message["role"] == "tool"]
        self.pages: dict[str, str] = {title: text for result in results for title, text in _PAGE.findall(result)}
        self.addresses: dict[str, str] = {title: url for result in results for title, url in _HIT.findall(result)}
        self.addresses |= {title: url for text in self.pages.values() for title, url in _LINK.findall(text)}

    def values(self, name: str, key: str) -> tuple[str, ...]:
        field = BY_KEY[key]
        label = re.escape(field.label)
        found = re.search(
            rf"^(?:(?:{label} \| |{label}\n|- {label}: )(.+)|For .+, the {label} is given as (.+)\.)$",
            self._text(page_with(name, key).title),
            re.MULTILINE,
        )
        values = field.values(found[1] or found[2]) if found else ()
        if not values:
            raise NoAnswerError
        return values

    def members(self, group: str) -> tuple[str, ...]:
        return tuple(name for name, _ in _LINK.findall(self._text(page_listing("country", group).title)))

    def _text(self, title: str) -> str:
        if self._errs_at(title):
            section = title.partition(":")[2]
            others = (other for other in self.addresses if section and other != title and other.endswith(section))
            title = next(others, title)
        if title not in self.pages:
            raise _PageNeededError(title)
        return self.pages[title]


def _say(messages: Sequence[Message], errs_at: Callable[[str], bool] = lambda _: False) -> Message:
    """Go through the procedure on what has been read, up to the first page that has not."""
    draft = understand(str(messages[1]["content"]))
    if draft is None:
        return {"content": "I do not understand the question."}
    read = _PagesRead(messages, errs_at)
    try:
        rows = draft.answer(read)
    except _PageNeededError as needed:
        title = str(needed)
        query = title.replace(":", "")
        if title in read.addresses:
            return _call("visit", url=[read.addresses[title]], goal=title)
        if json.dumps(query, ensure_ascii=False) not in str([message.get("tool_calls") for message in messages]):
            return _call("search", query=query)
        if "Contents" not in read.pages and read.addresses:  # large pages come late in the results
            return _call("visit", url=[urljoin([*read.addresses.values()][-1], "/")], goal=title)
        return {"content": f"I cannot find the page {title!r}."}
    except NoAnswerError:
        return {"content": "The pages do not say."}
    table = "\n".join("\t".join(row) for row in [draft.header, *rows])
    return {"content": f"```tsv\n{table}\n```"}


def _call(name: str, **arguments: object) -> Message:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"content": "", "tool_calls": [{"id": "", "type": "function", "function": function}]}
