import time
from email.utils import formatdate

import pytest

from src.gisa.agent.waits import asked_wait_s


@pytest.mark.parametrize(
    ("headers", "said", "seconds"),
    [
        ({}, "", None),
        ({"Retry-After": "7"}, "", 7),
        ({"retry-after": "0.5"}, "try again in 9s", 0.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, "", 1.5),
        ({"Retry-After-Ms": "soon", "Retry-After": "2"}, "", 2),
        ({}, "Rate limit reached for gpt-4o on requests per min. Please try again in 20s. Visit", 20),
        ({}, "Please try again in 6ms.", 0.006),
        ({}, "Please try again in 1m2.5s. Need more tokens?", 62.5),
        ({}, "Please try again in 57m36s", 3456),
        ({}, "Please retry after 24 seconds.", 24),
        ({}, "reached organization max concurrency: 1, please try again after 1 seconds", 1),  # Kimi
        ({}, "Try again in 2 minutes", 120),
        ({}, "try again in 1 hour", 3600),
        ({}, "Please retry in 20.04466179s.", pytest.approx(20.04466179)),
        ({}, '{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}', 37),
        ({}, "retrydelay: 37.5s", 37.5),
        ({}, '{"retry_after": 12}', 12),
        ({}, "Please try again later, or in 3 days", None),
        ({}, "try again in a while", None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}, "", 62.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, "", 0.12),
        ({"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "59s"}, "", None),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "3"}, "", 3),
        ({"X-RateLimit-Remaining": "0"}, "", None),
    ],
)
def test_a_wait_is_read_wherever_a_service_says_it(headers, said, seconds):
    assert asked_wait_s(headers, said) == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("scale", [1, 1000])
def test_a_point_in_time_is_counted_from_now(scale):
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int((time.time() + 100) * scale))}
    assert 95 < asked_wait_s(headers) <= 100
    assert 95 < asked_wait_s({"Retry-After": formatdate(time.time() + 100, usegmt=True)}) <= 100
