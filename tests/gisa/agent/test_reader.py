"""The reader of pages by default."""

import pytest

from src.gisa.agent.cost import PriceList
from src.gisa.agent.policy import ChatEndpoint, ScriptedPolicy
from src.gisa.agent.reader import OwnReader, without_thinking


@pytest.mark.parametrize(
    ("body", "plain"),
    [
        ({"enable_thinking": True, "top_p": 0.9}, {"enable_thinking": False, "top_p": 0.9}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, {"thinking": {"type": "disabled"}}),
        ({"chat_template_kwargs": {"thinking": True, "x": 1}}, {"chat_template_kwargs": {"thinking": False, "x": 1}}),
        ({"reasoning": {"effort": "high"}}, {"reasoning": {"enabled": False}}),
        ({"reasoning_effort": "high", "thinking_budget": 5}, {}),
    ],
)
def test_what_turns_thinking_on_is_turned_off(body, plain):
    assert without_thinking(body) == plain


def test_it_is_the_policys_own_model_without_thinking():
    policy = ChatEndpoint(
        "http://x", "m", PriceList("2026-01-01"), None, extra_body={"enable_thinking": True}, reasoning_effort="high"
    )
    reader = OwnReader().of(policy)
    assert (reader.model, reader.base_url, reader.extra_body) == ("m", "http://x", {"enable_thinking": False})
    assert reader.reasoning_effort is None
    assert policy.extra_body == {"enable_thinking": True}
    assert OwnReader().of(ScriptedPolicy(lambda messages: {})) is None
    assert OwnReader(model="small").of(policy).model == "small"
