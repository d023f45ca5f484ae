"""What a server's refusal says, in whatever form it comes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.agent.complaints import complaint_in, complaint_of
from tests.gisa.agent.quirks import FILTERS, OVERFLOWS

# Tokens that the model can read and write, and those of the request, as the refusals of ``OVERFLOWS`` give them.
LENGTHS = {
    "OpenAI": (8192, 9001),
    "OpenAI, more than a minute's tokens": (30000, 342389),
    "Azure": (128000, 122808),
    "Anthropic": (200000, 213462),
    "Anthropic, with output": (200000, 196321),
    "Gemini": (1048575, 1196265),
    "OpenRouter": (32768, 31000),
    "OpenRouter, upstream's words within": (131040, 131393),
    "vLLM": (8192, 9400),
    "vLLM, newer": (8192, 8100),
    "SGLang": (8192, 9000),
    "SGLang, with output": (8192, 8100),
    "llama.cpp": (8192, 9001),
    "TGI": (4096, 5000),
    "Kimi": (262144, 291351),
    "DeepSeek": (65536, 65727),
    "Mistral": (32768, 41000),
    "Together": (8193, 9000),
    "xAI": (131072, 537812),
    "LiteLLM": (200000, 213462),
    "Fireworks": (131071, 140000),
    "TensorRT-LLM": (8192, 9351),
    "Triton": (2048, 5056),
    "Cloudflare": (24000, 41000),
    "TensorRT-LLM, without room": (32768, None),
    "vLLM, without room": (None, None),
    "Qwen/DashScope": (129024, None),
    "Cerebras": (None, None),
}


def refusal(status, body):
    return complaint_of(status, body if isinstance(body, str) else json.dumps(body))


@pytest.mark.parametrize("server", OVERFLOWS)
def test_a_conversation_that_is_too_long_is_told_by_its_wording_and_its_numbers(server):
    complaint = refusal(*OVERFLOWS[server])
    assert complaint.kind == "overflow"
    assert server not in LENGTHS or complaint.lengths(8192) == LENGTHS[server]


@pytest.mark.parametrize("server", FILTERS)
def test_a_filter_is_told_by_its_wording(server):
    status, body = FILTERS[server]
    assert (complaint_in(body) if status == 200 else refusal(status, body)).kind == "filtered"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            429,
            "Rate limit reached on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443. Try again.",
        ),
        (400, "ThrottlingException: Too many tokens, please wait before trying again."),
        (429, "You exceeded your current quota, please check your plan and billing details."),
        (401, "Incorrect API key provided: the token is too long."),
        (402, "This request requires more credits, or fewer max_tokens. You requested up to 8192 tokens."),
        (404, "The model `x` does not exist"),
        (500, "Internal server error"),
        (500, 'Post "http://127.0.0.1:11434/api/chat": context deadline exceeded'),
        (504, "do request failed: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"),
        (503, "The engine is currently overloaded, please try again later"),
        (400, "Model Not Exist"),
        (403, "Request blocked. We can't connect to the server for this app or website at this time."),
        (403, "Sorry, you have been blocked. You are unable to access this service."),
    ],
)
def test_what_will_pass_and_what_no_conversation_mends_is_neither(status, message):
    complaint = refusal(status, {"error": {"message": message}})
    assert (complaint.kind, complaint.guess) == (None, None)


def test_what_a_server_echoes_of_the_request_says_nothing():
    body = {
        "detail": [
            {"msg": "no such field", "input": "the content filter's maximum context length", "loc": ["body", "x"]}
        ]
    }
    complaint = refusal(422, body)
    assert (complaint.kind, complaint.text) == (None, "msg: no such field loc: body.x")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"error": {"code": 429, "message": "busy"}}, 429, "busy"),
        ({"error": {"code": "503", "message": "down"}}, 503, "down"),
        ({"error": "upstream gone"}, 500, "upstream gone"),
        ([{"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}}], 400, "bad"),
        ({"object": "error", "message": "old vLLM", "code": 400}, 400, "old vLLM"),
        ({"choices": [{"error": {"code": 502, "message": "gone"}, "message": {"content": "x"}}]}, 502, "gone"),
        ({"choices": [{"finish_reason": "error", "message": {"content": "x"}}]}, 500, "finish_reason: error"),
        ({"choices": [{"message": "x"}], "base_resp": {"status_code": 1000, "status_msg": "oops"}}, 500, "oops"),
        ({"choices": [], "detail": "no worker"}, 500, "choices: detail: no worker"),
    ],
)
def test_an_error_with_status_200_is_found_wherever_it_stands(body, status, said):
    complaint = complaint_in(body)
    assert complaint.status == status
    assert said.rpartition(": ")[2] in complaint.said


def test_a_reply_without_an_error_has_none():
    assert complaint_in({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "error": None}) is None
    assert complaint_in({"choices": [{"message": {"content": "x"}}]}) is None
    assert complaint_in({}) is complaint_in(7) is complaint_in([]) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "choices", "code", "message", "detail", "loc", "finish_reason", "base_resp", "status_code"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from([200, 400, 429, 500]))
def test_nothing_that_a_server_can_send_breaks_the_reading(body, status):
    complaint = complaint_of(status, body)
    assert complaint.kind in (None, "overflow", "filtered", "malformed")
    complaint.lengths(8192)
    complaint.most_output(8192)
    complaint_in(body)
    complaint_of(status, json.dumps(body)[:-1])
