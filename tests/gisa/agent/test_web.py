import asyncio
import gzip
import json
import time
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import pytest

from src.gisa.agent.cost import Account, Step
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.web import Gate, Key, Web
from src.launch.errors import InputError
from tests.gisa.agent.servers import reply, serve

NO_KEY = Key(None)
OK = reply(json.dumps({"value": 7}), content_type="application/json")


def new_step():
    return Step(Account("question", None))


def call_service(replies, *, key=NO_KEY, parse=lambda found: found["value"], timeout_s=20.0, step=None, **settings):
    """Call a service that gives one reply after the other; return the result and the requests it saw."""
    seen = []

    async def respond(request, writer):
        seen.append(request)
        data = replies[min(len(seen), len(replies)) - 1]
        if data is None:
            await asyncio.Event().wait()
        return data

    async def main():
        settings.setdefault("base_delay_s", 0.001)
        async with serve(respond) as port, Web(**settings) as web:
            return await web.call(
                f"http://127.0.0.1:{port}/v1",
                parse,
                step or new_step(),
                body={"q": "Zoë"},
                key=key,
                timeout_s=timeout_s,
            )

    return asyncio.run(main()), seen


def failure(replies, **settings):
    with pytest.raises(RequestError) as caught:
        call_service(replies, **settings)
    return caught.value


def test_a_request_is_posted_as_json_and_its_reply_parsed():
    result, (request,) = call_service([OK])
    assert result == 7
    assert (request.method, request.path, json.loads(request.body)) == ("POST", "/v1", {"q": "Zoë"})


def test_a_compressed_reply_is_read():
    packed = reply(gzip.compress(b'{"value": 8}'), content_type="application/json", Content_Encoding="gzip")
    assert call_service([packed])[0] == 8


@pytest.mark.parametrize("done", [reply('{"value": 8}', status="201 Created"), reply('\ufeff{"value": 8}')])
def test_a_reply_may_say_that_it_is_created_and_begin_with_a_mark_of_its_encoding(done):
    assert call_service([done])[0] == 8


@pytest.mark.parametrize(
    "first",
    [
        reply(status="408 Timeout"),
        reply(status="409 Conflict"),
        reply(status="429 Slow"),
        reply(status="500 Oops"),
        reply(status="503 Busy"),
        b"",
        b"nonsense\r\n\r\n",
        reply(b'{"val', Content_Length=100),
        reply('{"value": '),
        reply("[]"),
        reply('{"other": 1}'),
        reply("[" * 100_000),
        reply(b"\x1f\x8bx", Content_Encoding="gzip"),
    ],
)
def test_what_may_pass_is_tried_again(first):
    def parse(found):
        if not isinstance(found, dict) or "value" not in found:
            raise RequestError("unreadable", "no value", retryable=True)
        return found["value"]

    step = new_step()
    result, seen = call_service([first, OK], parse=parse, step=step)
    assert (result, len(seen), len(step.failures)) == (7, 2, 1)
    assert step.failures[0].startswith("127.0.0.1: ")


@pytest.mark.parametrize("status", ["400 Bad", "401 Who", "403 No", "404 Where", "413 Long", "422 What"])
def test_what_will_not_pass_is_tried_once(status):
    step = new_step()
    error = failure([reply("the   reason", status=status), OK], step=step)
    assert str(error) == f"HTTP {status[:3]}: the reason"
    assert len(step.failures) == 1


def test_a_stalled_request_is_given_up_and_tried_again():
    assert call_service([None, OK], timeout_s=0.3)[0] == 7


def test_after_the_last_attempt_the_failure_is_raised_with_its_history():
    step = new_step()
    error = failure([b"", reply(status="503 Busy"), reply(status="500 Oops")], attempts=3, step=step)
    assert error.status == 500
    assert [text.partition(": ")[2][:8] for text in step.failures] == ["no conne", "HTTP 503", "HTTP 500"]


@pytest.mark.parametrize(
    "slow",
    [
        reply(status="429 Slow", Retry_After="0.2"),
        reply(status="529 Slow", retry_after_ms="200"),
        reply('{"error": {"message": "Please retry in 0.2s."}}', status="429 Slow"),
    ],
)
def test_a_wait_that_the_server_asks_for_is_kept(slow):
    began = time.monotonic()
    call_service([slow, OK])
    assert time.monotonic() - began >= 0.2


def test_a_longer_wait_than_allowed_ends_the_request():
    error = failure([reply(status="429 Slow", Retry_After="3600"), OK], max_delay_s=1.0)
    assert (error.status, error.retry_after_s) == (429, 3600)


def refused(status, text="no", *, part="chain", before=(), key=NO_KEY, **settings):
    """What a call ends with whose service refuses it after other replies."""
    replies = [*before, *[reply(text, status=f"{status} No")] * 2, OK]

    async def main():
        answers = iter(replies)

        async def respond(request, writer):
            return next(answers)

        async with serve(respond) as port, Web(base_delay_s=0.001, **settings) as web:
            ask = {"body": {"model": "m"} if part == "chain" else {}, "key": key, "timeout_s": 20, "part": part}
            for _ in range(len(before) + 1):
                await web.call(f"http://127.0.0.1:{port}/v1", lambda found: found["value"], new_step(), **ask)

    with pytest.raises((InputError, RequestError)) as caught:
        asyncio.run(main())
    return caught.value


@pytest.mark.parametrize(("status", "part"), [(401, "chain"), (402, "search"), (404, "extractor"), (401, "page")])
def test_what_every_other_request_would_meet_ends_the_run(status, part):
    assert isinstance(refused(status, part=part), InputError)
    assert isinstance(refused(status, part=None), RequestError)


def test_a_service_that_has_taken_requests_is_asked_once_more_before_its_refusal_is_believed():
    assert isinstance(refused(401, before=[OK, OK]), InputError)  # twice
    assert isinstance(refused(402, before=[OK]), InputError)  # money is not found again
    once = [OK, reply("who", status="401 Who"), OK]

    async def main():
        answers = iter(once)

        async def respond(request, writer):
            return next(answers)

        async with serve(respond) as port, Web() as web:
            ask = {"body": {}, "key": NO_KEY, "timeout_s": 20, "part": "chain"}
            url, step = f"http://127.0.0.1:{port}/", new_step()
            return [await web.call(url, lambda found: found["value"], step, **ask) for _ in range(2)], step.failures

    assert asyncio.run(main()) == ([7, 7], ["127.0.0.1: HTTP 401: who"])


def test_a_redirect_of_a_service_is_not_followed_as_the_key_is_for_one_host():
    assert failure([reply(status="302 Found", Location="http://127.0.0.1:1/")]).status == 302


def test_a_key_is_sent_in_its_header_and_taken_out_of_everything_that_comes_back(monkeypatch):
    monkeypatch.setenv("PLANTED_KEY", "sk-planted-123\n")
    key = Key("PLANTED_KEY", header="X-API-KEY", prefix="")
    echo = reply('{"value": "you sent sk-planted-123"}')
    result, (request,) = call_service([echo], key=key)
    assert request.headers["x-api-key"] == "sk-planted-123"
    assert result == "you sent [key]"
    step = new_step()
    error = failure([reply("wrong key sk-planted-123", status="401 Who")], key=key, step=step)
    assert str(error) == "HTTP 401: wrong key [key]"
    assert "sk-planted" not in repr(vars(key)) + repr(step)


SLY_KEY = "sk-a/b+C d%0123"


@pytest.mark.parametrize(
    "echo",
    [
        SLY_KEY.upper(),
        quote(SLY_KEY, safe=""),
        quote_plus(SLY_KEY),
        "".join(f"\\u{ord(letter):04x}" for letter in SLY_KEY),
        SLY_KEY.replace("/", "\\/"),
        *(
            b64encode(f"{before}{SLY_KEY}{after}".encode()).decode()
            for before in ("", "x", "xy")
            for after in ("", ":")
        ),
        urlsafe_b64encode(f"Authorization: Bearer {SLY_KEY}".encode()).decode(),
    ],
)
def test_a_key_is_taken_out_in_every_encoding_in_which_it_comes_back(monkeypatch, echo):
    monkeypatch.setenv("PLANTED_KEY", SLY_KEY)
    key = Key("PLANTED_KEY")
    result, _ = call_service([reply(f'{{"value": "you sent {echo}."}}')], key=key)
    error = failure([reply(f"wrong key {echo}.", status="401 Who")], key=key)
    for text in (result, str(error).removeprefix("HTTP 401: ")):
        assert "[key]" in text
        assert len(text) < 50  # "Authorization: Bearer " in base64 is 28 characters


@pytest.mark.parametrize("value", ["", "  ", "a\nb", "schlüssel"])
def test_a_key_that_is_missing_or_unusable_is_named_without_its_value(monkeypatch, value):
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(InputError, match=r"SOME_KEY holds no API key\.\nSet it:  export SOME_KEY=<your key>") as caught:
        Key("SOME_KEY")
    assert "schl" not in str(caught.value)


def test_pages_are_fetched_safely_and_tried_again():
    answers = iter([reply(status="503 Busy"), reply("<p>page</p>")])

    async def respond(request, writer):
        return next(answers)

    async def main():
        async with serve(respond) as port, Web(base_delay_s=0.001, test_only_loopback_ports=[port]) as web:
            step = new_step()
            page = await web.page(f"http://127.0.0.1:{port}/", step)
            with pytest.raises(RequestError, match="only 80 and 443"):
                await web.page(f"http://127.0.0.1:{port + 1 if port < 65535 else 1}/", step)
            return page.text, step.failures, web._gates

    assert asyncio.run(main()) == ("<p>page</p>", ["127.0.0.1: HTTP 503"], {})


def test_no_more_requests_are_under_way_to_a_host_than_allowed():
    under_way, most = 0, 0

    async def respond(request, writer):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return OK

    async def main():
        async with serve(respond) as port, Web(concurrency_per_host=3) as web:
            url = f"http://127.0.0.1:{port}/"
            one = lambda: web.call(url, lambda found: found, new_step(), body={}, key=NO_KEY, timeout_s=20)  # noqa: E731
            await asyncio.gather(*(one() for _ in range(12)))

    asyncio.run(main())
    assert most == 3


def test_the_limit_falls_once_a_window_by_the_share_of_refusals_and_grows_again_by_a_sixteenth_of_the_most():
    gate = Gate(32)

    def window(refused):
        for number in range(max(8, int(gate.limit))):
            gate.count(refused=number < refused)
        return gate.limit

    assert window(32) == 16  # all of them: by half, and not by half for each of the 32
    assert window(8) == 12  # half of 16: by a quarter
    assert window(1) == 14  # 1 of 12 is chance: 32 / 16 more
    assert [window(0) for _ in range(9)] == [16, 18, 20, 22, 24, 26, 28, 30, 32]
    assert window(4) == 32  # 1 of 8 is still chance
    assert gate.is_idle
    assert [window(32), window(16), window(8), window(8), window(8), window(8)] == [16, 8, 4, 2, 1, 1]


def test_one_request_in_ten_turned_away_costs_one_request_and_one_host_has_a_limit_for_each_purpose():
    """200 requests, 16 at once: the limit stays, where halving at each refusal came down to one at a time."""
    seen, limits = [], {}

    async def main():
        async def respond(request, writer):
            seen.append(request)
            for purpose, gate in web._gates.items():
                limits.setdefault(purpose, set()).add(gate.limit)
            return reply(status="429 Slow", Retry_After="0.02") if len(seen) % 10 == 0 else OK

        async with serve(respond) as port, Web(concurrency_per_host=16) as web:
            one = {"body": {}, "key": NO_KEY, "timeout_s": 20}
            url = f"http://127.0.0.1:{port}/"
            asks = (web.call(url, lambda found: found, new_step(), part="chain", **one) for _ in range(200))
            await asyncio.gather(*asks, web.call(url, lambda found: found, new_step(), part="search", **one))

    asyncio.run(main())
    assert list(limits.values()) == [{16}, {16}]
    assert len(seen) == 223  # 201, and each tenth once more


def test_where_most_are_refused_a_gate_lets_none_through_before_the_wait_is_over_and_then_all():
    async def main():
        gate, passed = Gate(2), []

        async def enter(number):
            async with gate:
                passed.append(time.monotonic())

        began = time.monotonic()
        for _ in range(8):
            gate.count(refused=True, wait_s=0.1)
        await asyncio.gather(*(enter(number) for number in range(5)))
        return passed, began

    passed, began = asyncio.run(main())
    assert len(passed) == 5
    assert min(passed) - began >= 0.1
