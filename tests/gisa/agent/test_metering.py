import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.agent import metering
from src.gisa.agent.cost import Usage
from src.gisa.agent.metering import Meter, Size, usage_of
from src.launch.errors import InputError
from tests.gisa.chat_models import WITH_TOOLS, tokenizer

ASKED = [{"role": "user", "content": "Where is Lima?"}]
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}


def test_without_a_tokenizer_a_token_is_three_bytes(monkeypatch):
    monkeypatch.setattr(metering, "_has_o200k", lambda: False)
    meter = Meter()
    # 14 bytes of text are 5 tokens, and 4 are for the message and 4 for the reply's beginning.
    assert meter.size(ASKED, ()).tokens == 5 + 8
    assert meter.method == "a token for 3 bytes"
    assert Meter("gpt2").method == "gpt2"


def test_all_that_is_sent_is_counted():
    meter = Meter()
    call = {"function": {"name": "search", "arguments": '{"query": "Lima"}'}}
    longer = [
        [*ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}],
        [*ASKED, {"role": "assistant", "content": [{"type": "text", "text": "In Peru, of course"}]}],
        [*ASKED, {"role": "assistant", "content": "", "reasoning_content": "In Peru, of course"}],
    ]
    plain = meter.size(ASKED, ()).tokens
    assert all(meter.size(messages, ()).tokens > plain + 4 for messages in longer)
    assert meter.size(ASKED, [TOOL]).tokens > plain + 10
    assert meter.size([{"role": "user", "content": "\ud800"}], ()).tokens >= 8  # half a surrogate pair


def test_a_model_s_own_template_counts_exactly(tmp_path):
    own = tokenizer(WITH_TOOLS)
    own.save_pretrained(tmp_path)
    meter = Meter(str(tmp_path))
    rendered = own.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    assert meter.size(ASKED, ()).tokens == len(own.encode(rendered, add_special_tokens=False))
    with pytest.raises(InputError, match="tokenizer='/nowhere': no tokenizer could be loaded"):
        Meter("/nowhere").size(ASKED, ())


def test_bounds_are_learnt_from_what_the_server_counts():
    meter = Meter()
    assert meter.prompt_bound(Size(100, 150)) == 150  # no token is shorter than a byte
    assert meter.prompt_bound(Size(100, 4000)) == 264  # twice, and 64
    assert (meter.reply_bound(8192), meter.reply_bound(500)) == (1024, 500)
    meter.usage(Usage(130, 40), Size(100, 400), {"content": "x"})
    assert meter.prompt_bound(Size(100, 400)) == 163  # 1.25 * 130
    # 1.25 * 130, and 2 for each token beyond the class of 100, which begins at 1.25^20 = 86.7
    assert meter.prompt_bound(Size(200, 800)) == pytest.approx(163 + 2 * 113, abs=2)
    assert meter.reply_bound(8192) == 256
    meter.usage(Usage(130, 400), Size(100, 400), {"content": "x"})
    assert meter.reply_bound(8192) == 800


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=20), st.floats(0.5, 1.9), st.integers(0, 300))
def test_once_a_conversation_is_seen_its_bound_holds_for_a_server_that_counts_in_proportion(sizes, share, more):
    meter = Meter()
    for tokens in sorted(sizes):
        told = round(share * tokens) + more
        meter.usage(Usage(told, 1), Size(tokens, 4 * tokens), {"content": "x"})
        assert meter.prompt_bound(Size(tokens, 4 * tokens)) >= told


def test_estimates_follow_what_the_server_said_of_other_calls():
    meter = Meter()
    assert meter.usage(None, Size(100, 400), None) == (Usage(100, 0), True)
    meter.usage(Usage(150, 30), Size(100, 400), {"content": "x"})
    assert meter.usage(None, Size(200, 800), None) == (
        Usage(300, 30),
        True,
    )  # an average reply
    usage, estimated = meter.usage(Usage(300, 0), Size(200, 800), {"content": "In Peru, of course"})
    assert (usage.prompt, estimated) == (300, True)
    assert usage.completion == 5
    assert meter.usage(Usage(9, 0), Size(9, 9), {"content": ""}) == (Usage(9, 0), False)


def test_sums_that_hide_thoughts_are_found():
    body = {"usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 40}}
    assert usage_of(body) == Usage(10, 30, reasoning=28)
    thought = {"completion_tokens_details": {"reasoning_tokens": 28}}
    assert usage_of({"usage": {"prompt_tokens": 10, "completion_tokens": 2, **thought}}) == Usage(10, 30, reasoning=28)
    assert usage_of({"usage": {"prompt_tokens": 10, "completion_tokens": 30, **thought}}) == Usage(10, 30, reasoning=28)


@pytest.mark.parametrize("total", [{}, {"total_tokens": 25}, {"total_tokens": 1225}])
@pytest.mark.parametrize(
    "cache",
    [
        {"cache_read_input_tokens": 1000, "cache_creation_input_tokens": 200},
        {"prompt_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 200}},
    ],
)
def test_cached_tokens_beside_the_prompt_are_read_and_not_thought(cache, total):
    usage = {"prompt_tokens": 20, "completion_tokens": 5, **total, **cache}
    assert usage_of({"usage": usage}) == Usage(1220, 5, cached=1000, cache_write=200)


def test_of_a_call_its_name_and_arguments_count_and_not_what_only_the_protocol_wants():
    def sized(call):
        return Meter().size([{"role": "assistant", "content": None, "tool_calls": [call]}], [])

    function = {"name": "search", "arguments": '{"query": "peru"}'}
    written = {"role": "assistant", "content": '{"name": "search", "arguments": {"query": "peru"}}'}
    call = {"id": "call_" + "x1y2" * 20, "type": "function", "function": function}
    assert sized(call).tokens == Meter().size([written], []).tokens
    parsed = {**function, "arguments": {"query": "peru"}}
    assert sized({"function": parsed}).tokens == sized(call).tokens
    assert sized("search").tokens < sized(call).tokens  # what is no call at all is counted as it is
