"""The model that reads pages by default: the agent's own, without thinking, as in the GISA paper (arXiv 2602.08543)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from src.gisa.agent.policy import ChatEndpoint, Policy
from src.launch.values import Count, Weight

_DROPPED = ("reasoning_effort", "thinking_budget", "thinking_config", "budget_tokens")


@dataclass(frozen=True)
class OwnReader:
    """The policy's own model as a reader of pages; what is given here takes the place of the policy's.

    Attributes:
        model, base_url, key_env, temperature, max_output_tokens, extra_body: See ``ChatEndpoint``.
    """

    model: str | None = None
    base_url: str | None = None
    key_env: str | None = None
    temperature: Weight | None = None
    max_output_tokens: Count | None = None
    extra_body: Mapping[str, Any] | None = None

    def of(self, policy: Policy) -> ChatEndpoint | None:
        """Return the reader that belongs to a policy; None for rules and models in this process, who read alone.

        What turns thinking on in the policy's ``extra_body`` is turned off in the same field, as the server knows it,
        or left out.
        """
        if not isinstance(policy, ChatEndpoint):
            return None
        fallback = self.of(policy.fallback) if policy.fallback else None
        body = None if policy.extra_body is None else without_thinking(policy.extra_body)
        changes = {"extra_body": body, **{name: value for name, value in vars(self).items() if value is not None}}
        return replace(policy, reasoning_effort=None, parallel_calls=None, fallback=fallback, **changes)


def without_thinking(body: Mapping[str, Any]) -> dict[str, Any]:
    """Turn thinking off in the fields of a request; those of Qwen, GLM, Kimi, DeepSeek, Anthropic, OpenRouter, vLLM."""
    changed: dict[str, Any] = {}
    for name, value in body.items():
        if name in _DROPPED:
            continue
        if name == "enable_thinking" or (name == "thinking" and isinstance(value, bool)):
            value = False
        elif name == "thinking" and isinstance(value, Mapping):
            value = {"type": "disabled"}
        elif name == "reasoning" and isinstance(value, Mapping):
            value = {"enabled": False}
        elif name in ("chat_template_kwargs", "extra_body") and isinstance(value, Mapping):
            value = without_thinking(value)
        changed[name] = value
    return changed
