"""Replies of a service after which no other request of the run can succeed: a wrong key, no credit, no such model."""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Literal

from src.gisa.agent.cost import Part
from src.gisa.agent.fetch import RequestError
from src.launch.errors import InputError

Stop = Literal["key", "credit", "address"]

# What services say of an empty account, in lower case.
_NO_CREDIT = (
    r"insufficient[_ ](user[_ ])?(quota|balance|account balance)",  # OpenAI, new-api, z.ai, MiniMax, Moonshot
    r"(account|paid) balance is insufficient",  # SiliconFlow: FoundationAgents/OpenManus#438
    r"not[_ ]enough[_ ](balance|credits)|exceeded_current_quota",  # Novita, Serper; Moonshot
    r"余额不足|额度不足|欠费|额度已用尽|预扣费额度失败",  # GLM, new-api: continuedev/continue#11823
    r"credit balance is too low|reached your specified api usage limits",  # Anthropic: anthropics/claude-code#2127
    r"key limit exceeded",  # OpenRouter: RooCodeInc/Roo-Code#515
    r"budget has been exceeded|exceeded ?budget|budget_exceeded",  # LiteLLM: BerriAI/litellm#14144
    r"arrearage|overdue|spending limit|freetieronly",  # DashScope, Ark, Fireworks, xAI
    r"billing[ _](?:hard limit|not[ _]active)|check your billing details|credits are depleted",  # OpenAI, Gemini
    r"credit[ _]limit exceeded|doesn't have any credits|api calls / month",  # Together, xAI, Cohere
)
# Statuses, wording in lower case, what it means; the first that fits counts. A 403 may also be about what was sent
# (OpenRouter's moderation) or come from a firewall, and a 429 be about the rate, so that these need a wording.
_SIGNS: tuple[tuple[Set[int], str, Stop], ...] = (
    (frozenset({402}), "", "credit"),  # DeepSeek, OpenRouter, Jina
    # The same with other statuses; 500 stands for an error within a reply of status 200 that names none.
    (frozenset({400, 403, 412, 429, 500}), "|".join(_NO_CREDIT), "credit"),
    # Their status is 400, as that of Gemini and xAI for a wrong key; MiniMax says so within a 200, as 1004 and 2049.
    (
        frozenset({400, 403, 500}),
        r"api[ _]key[ _](expired|not[ _]found|(not|in)[ _]?valid)|(invalid|incorrect)[ _]api[ _]?key|no api key"
        r"|login fail|location is not supported",
        "key",
    ),
    (frozenset({401}), "", "key"),
    (
        frozenset({403}),
        r"unauthorized|permission|api.?key|credential|not allowed to access|access.denied|country",
        "key",
    ),
    (frozenset({404}), "", "address"),
    # The same of a name: DeepSeek, OpenRouter and LiteLLM, Groq, GLM (BerriAI/litellm#3142, BerriAI/litellm#9817).
    (
        frozenset({400}),
        r"model not exist|not a valid model|invalid model (name|id)|unknown model|model_(not_found|decommissioned)"
        r"|模型不存在",
        "address",
    ),
)
# Which settings of a part hold the key's variable, the address and the model.
_PATHS: dict[Part, str] = {
    "chain": "agent.policy",
    "extractor": "agent.extractor",
    "compaction": "agent.policy",
    "judge": "evaluator.judge",
    "search": "agent.search",
    "page": "agent.pages",
}


def stop_of(error: RequestError, part: Part | None) -> Stop | None:
    """Tell whether a refusal is one that every request of that part will meet; None if it is not, or of no service."""
    if part is None or error.status is None or (part == "page" and error.status == 404):  # that page is not there
        return None
    text = str(error).lower().replace("[key]", "")
    return next((stop for status, words, stop in _SIGNS if error.status in status and re.search(words, text)), None)


def stopped(
    stop: Stop, error: RequestError, part: Part, url: str, variable: str | None, model: str | None
) -> InputError:
    """Return what to say to the user: what the service said, and what to type.

    Args:
        stop: What is the matter.
        error: What the service said.
        part: For whom it was asked.
        url: The address that was asked.
        variable: Environment variable with the key, if one is needed.
        model: Name of the model, if it is one.
    """
    path = _PATHS[part]
    key = f"export {variable}=<your key>" if variable else f"{path}.key_env=<environment variable with the key>"
    setting = "base_url" if model else "url"
    advice = {
        "key": f"The service does not take the key. Set another one:  {key}\nor name its variable:  {path}.key_env=...",
        "credit": f"The account has no credit left. Add some with the service, or take another key:  {key}",
        "address": f"Nothing answers there{f' by the name of {model!r}' * bool(model)}. Check  {path}.{setting}=..."
        + f"\nand  {path}.model=<a name that the server lists at /models>" * bool(model),
    }
    return InputError(
        f"The run stops, as no other request would do better: {url} says {error}.\n{advice[stop]}\n"
        "Nothing that is done is lost: resume the run when it is mended."
    )
