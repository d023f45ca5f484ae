import pytest

from src.gisa.agent.fetch import RequestError
from src.gisa.agent.stops import stop_of, stopped

QUOTA = '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'


@pytest.mark.parametrize(
    ("status", "text", "part", "typed"),
    [
        (401, "who", "chain", "export PLANTED_KEY=<your key>\nor name its variable:  agent.policy.key_env=..."),
        (401, "who", "extractor", "agent.extractor.key_env=..."),
        (402, "Insufficient Balance", "chain", "no credit left. Add some"),
        (429, QUOTA, "chain", "no credit left"),
        (400, "Your credit balance is too low to access the API", "chain", "no credit left"),
        (400, '{"message": "Not enough credits"}', "search", "no credit left"),
        (
            400,
            "You have reached your specified API usage limits. You will regain access on 2027-01-01",
            "chain",
            "credit",
        ),
        (400, "Budget has been exceeded! Current cost: 10.1, Max budget: 10.0", "chain", "no credit left"),
        (429, "ExceededBudget: User=x over budget. Spend=10.1, Budget=10.0", "chain", "no credit left"),
        (429, "余额不足或无可用资源包,请充值。", "chain", "no credit left"),
        (403, "Your paid balance is insufficient. Please top up and try again.", "chain", "no credit left"),
        (
            403,
            "Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys",
            "chain",
            "credit",
        ),
        (403, "用户额度不足, 剩余额度: ＄-0.02", "chain", "no credit left"),
        (412, "Account x is suspended, possibly due to reaching the monthly spending limit", "chain", "no credit left"),
        (400, "API key expired. Please renew the API key.", "chain", "does not take the key"),
        (400, "API key not valid. Please pass a valid API key.", "chain", "does not take the key"),
        (400, "Incorrect API key provided", "chain", "does not take the key"),
        (403, '{"message": "Unauthorized."}', "search", "agent.search.key_env=..."),
        (403, "Your API key lacks permission", "chain", "does not take the key"),
        (
            404,
            "The model `m` does not exist",
            "chain",
            "by the name of 'm'. Check  agent.policy.base_url=...\nand  agent",
        ),
        (404, "no such path", "search", "Check  agent.search.url=..."),
        *(
            (400, text, "chain", "by the name of 'm'. Check  agent.policy.base_url=...\nand  agent.policy.model=")
            for text in (
                '{"error": {"message": "Model Not Exist", "type": "invalid_request_error"}}',
                '{"error": {"message": "m is not a valid model ID", "code": 400}}',
                "Invalid model name passed in model=m. Call `/v1/models` to view available models for your key.",
                '{"error": {"message": "The model `m` has been decommissioned", "code": "model_decommissioned"}}',
                '{"error": {"code": "1211", "message": "模型不存在，请检查模型代码。"}}',
            )
        ),
        *(
            (status, text, "chain", "no credit left")
            for status, text in (
                (429, '{"error": {"message": "Your account is not active, please check your billing details"}}'),
                (400, '{"error": {"message": "Billing hard limit has been reached"}}'),
                (429, "Credit limit exceeded, please navigate to https://api.together.xyz/settings/billing"),
                (429, "Your prepayment credits are depleted. Please go to AI Studio"),
                (403, '{"code": "permission-denied", "error": "Your newly created team doesn\'t have any credits"}'),
                (403, "The free tier of the model has been exhausted. AllocationQuota.FreeTierOnly"),
                (429, "You are using a Trial key, which is limited to 1000 API calls / month."),
                (429, "您的账户已欠费，请充值后重试。"),
                (403, "预扣费额度失败, 用户剩余额度: ＄0.002"),
            )
        ),
        (400, "API Key not found. Please pass a valid API key.", "chain", "does not take the key"),
        (400, "User location is not supported for the API use.", "chain", "does not take the key"),
        (402, "Insufficient balance", "page", "no credit left"),
    ],
)
def test_what_every_other_request_would_meet_is_told_with_what_to_type(status, text, part, typed):
    error = RequestError("status", f"HTTP {status}: {text}", status=status)
    stop = stop_of(error, part)
    assert stop
    told = str(stopped(stop, error, part, "http://s.example/v1", "PLANTED_KEY", "m" if part == "chain" else None))
    assert f"http://s.example/v1 says HTTP {status}: " in told
    assert typed in told
    assert "resume the run" in told
    assert "agent.pages.key_env=<environment variable" in str(stopped("key", error, "page", "", None, None))


@pytest.mark.parametrize(
    ("status", "text", "part"),
    [
        (403, "Your input was flagged by moderation", "chain"),
        (403, "<html>blocked by the firewall", "chain"),
        (404, "no such page", "page"),
        (400, "no such field", "chain"),
        (429, "You exceeded your current quota; please retry in 20 s", "chain"),
        (429, "Rate limit exceeded: free-models-per-min", "chain"),
        (429, "You are using a Trial key, which is limited to 10 API calls / minute.", "chain"),
        (400, "Invalid schema: the model does not exist in the tools' definitions", "chain"),
        (401, "who", None),
    ],
)
def test_what_another_request_may_not_meet_ends_that_one(status, text, part):
    assert stop_of(RequestError("status", f"HTTP {status}: {text}", status=status), part) is None


def test_a_failure_without_a_status_is_no_refusal():
    assert stop_of(RequestError("timeout", "no api key"), "chain") is None
