import asyncio
import gzip
import socket
import time
import zlib
from email.utils import formatdate

import pytest

from src.gisa.agent.fetch import FetchLimits, RequestError, SafeFetcher, retry_after_s
from src.gisa.dataset.factbook.page_body import is_html
from tests.gisa.agent.servers import reply, serve

NAMES = {
    "localhost": ["127.0.0.1"],
    "localhost.": ["127.0.0.1"],
    "sub.localhost": ["::1"],
    "metadata.google.internal": ["169.254.169.254"],
    "127.0.0.1.nip.example": ["127.0.0.1"],
    "intranet": ["10.1.2.3"],
    "printer.local": ["192.168.1.9"],
    "mixed.example": ["93.184.216.34", "10.0.0.1"],
    "mixed-six.example": ["93.184.216.34", "fd00::1"],
    "mapped.example": ["::ffff:10.0.0.1"],
    "nat64.example": ["64:ff9b::a00:1"],
    "six-to-four.example": ["2002:a00:1::"],
    "zero.example": ["0.0.0.0"],
    "cgnat.example": ["100.64.0.1"],
    "link-local.example": ["fe80::1"],
    "scoped.example": ["fe80::1%eth0"],
    "nonsense.example": ["not an address"],
    "instance-data": ["169.254.169.254"],
    "metadata.google.internal.": ["169.254.169.254"],
}
HOSTILE = [
    # schemes
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "ftp://example.org/",
    "gopher://example.org/",
    "data:text/html,hello",
    "javascript:alert(1)",
    "ws://example.org/",
    "view-source:http://example.org/",
    "jar:http://example.org!/",
    "unix:/var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    # spellings
    "http://",
    "http:///etc/passwd",
    "http://[::1",
    "http://[127.0.0.1]/",
    "http://exa mple.org:bad/",
    "http://example.org:99999/",
    "http://\ud800/",
    "http://127.0.0.1\\@example.org/",
    "http://127%2e0%2e0%2e1/",
    "http://" + "a" * 5000,
    # user names
    "http://user@example.org/",
    "http://user:password@example.org/",
    "http://example.org@127.0.0.1/",
    "http://:@example.org/",
    "http://@example.org/",
    "http://example.org%2f@127.0.0.1/",
    # ports
    "http://example.org:22/",
    "http://example.org:6379/",
    "https://example.org:8443/",
    "http://example.org:0/",
    # IPv4
    "http://127.0.0.1/",
    "http://127.8.8.8/",
    "http://0.0.0.0/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.100.100.200/latest/meta-data/",
    "http://192.0.0.192/opc/v2/",
    "http://168.63.129.16/metadata",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://192.88.99.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    # IPv4 in disguise
    "http://2130706433/",
    "http://0x7f000001/",
    "http://017700000001/",
    "http://127.1/",
    "http://127.0.1/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://0/",
    "http://127.0.0.1./",
    "http://0xa9fea9fe/",
    "http://2852039166/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://１２７.0.0.1/",
    "http://0x7f.1/",
    "http://0300.0250.0.1/",
    "http://2130706433./",
    "http://037777777777/",
    "http://127.000.000.001/",
    "http://169。254。169。254/",
    "http://127.0.0.1%00.example.org/",
    "http://127.0.0.1#@example.org/",
    "http://127.0.0.1?@example.org/",
    "HTTP://127.0.0.1:80/",
    # IPv6
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://[::1]:80/",
    "http://[100::1]/",
    "http://[4000::1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    # names
    "http://ⓛocalhost/",
    "http://localhost。/",
    "http://LOCALHOST/",
    *(f"http://{name}/" for name in NAMES),
]


async def dns(host, port):
    """Know no other names: what is refused is refused for its spelling or its address."""
    if host not in NAMES:
        raise RequestError("connection", f"{host} is unknown")
    return NAMES[host]


def run(test, respond=None, **settings):
    """Run ``await test(fetcher, port)`` beside a server; the fetcher may reach that server and nothing else here."""

    async def main():
        async with serve(respond or (lambda request, writer: asyncio.sleep(0, reply()))) as port:
            settings.setdefault("lookup", dns)
            async with SafeFetcher(test_only_loopback_ports=[port], **settings) as fetcher:
                return await test(fetcher, port)

    return asyncio.run(main())


def answer_with(data):
    async def respond(request, writer):
        return data

    return respond


def fetched(data, **settings):
    return run(lambda fetcher, port: fetcher.fetch(f"http://127.0.0.1:{port}/"), answer_with(data), **settings)


def failure(data, **settings):
    with pytest.raises(RequestError) as caught:
        fetched(data, **settings)
    return caught.value


def test_a_legitimate_page_passes():
    page = fetched(reply("<p>Zoë</p>"))
    assert (page.text, page.content_type) == ("<p>Zoë</p>", "text/html")
    assert page.url.startswith("http://127.0.0.1:")


def test_every_hostile_url_is_refused():
    async def test(fetcher, port):
        passed = []
        for url in HOSTILE:
            try:
                await fetcher.fetch(url)
                passed.append(url)
            except RequestError as error:
                if error.kind != "refused":
                    passed.append((url, str(error)))
        return passed

    assert len(HOSTILE) >= 100
    assert run(test) == []


def test_every_hostile_url_is_refused_behind_a_redirect():
    async def respond(request, writer):
        if not request.path[1:].isdigit():
            return reply(status="404 Not Found")
        location = HOSTILE[int(request.path[1:])].encode("utf-8", "replace").decode("latin-1")
        return reply(status="302 Found").replace(b"\r\n\r\n", f"\r\nLocation: {location}\r\n\r\n".encode("latin-1"))

    async def test(fetcher, port):
        kinds = {}
        for number, url in enumerate(HOSTILE):
            with pytest.raises(RequestError) as caught:
                await fetcher.fetch(f"http://127.0.0.1:{port}/{number}")
            kinds[url] = caught.value.kind
        return {url: kind for url, kind in kinds.items() if kind != "refused"}

    # Without a host they are relative, and lead back to the server that sent them.
    assert run(test, respond) == {"http://": "redirects", "http:///etc/passwd": "status", "http://\ud800/": "status"}


def test_a_redirect_from_the_permitted_server_to_another_local_port_is_refused():
    async def test(fetcher, port):
        async with serve(answer_with(reply("secret"))) as other:
            assert other != port
            with pytest.raises(RequestError, match=r"port \d+; only 80 and 443 are allowed"):
                await fetcher.fetch(f"http://127.0.0.1:{port}/?{other}")

    async def respond(request, writer):
        return reply(status="307 Temporary Redirect", Location=f"http://127.0.0.1:{request.path[2:]}/")

    run(test, respond)


def test_loopback_is_closed_without_the_test_setting():
    async def main():
        async with SafeFetcher() as fetcher:
            await fetcher.fetch("http://127.0.0.1/")

    with pytest.raises(RequestError, match=r"127\.0\.0\.1 is not on the public internet"):
        asyncio.run(main())


def test_a_name_that_changes_its_address_is_connected_to_where_it_was_checked():
    """The first answer leads to the page, the second to another local server, the third to a private address."""
    answers = [["127.0.0.1"], ["127.0.0.2"], ["10.0.0.1"]]
    asked = []

    async def rebinding(host, port):
        asked.append(host)
        return answers[len(asked) - 1]

    async def test(fetcher, port):
        async with serve(answer_with(reply("second")), host="127.0.0.2", port=port):
            texts = [(await fetcher.fetch(f"http://rebind.example:{port}/")).text for _ in range(2)]
            with pytest.raises(RequestError, match=r"10\.0\.0\.1 is not on the public internet"):
                await fetcher.fetch(f"http://rebind.example:{port}/")
            return texts

    assert run(test, answer_with(reply("first")), lookup=rebinding) == ["first", "second"]
    assert asked == ["rebind.example"] * 3


def test_a_redirect_to_a_name_that_has_turned_private_is_refused():
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])

    async def rebinding(host, port):
        return next(answers)

    async def test(fetcher, port):
        with pytest.raises(RequestError, match=r"169\.254\.169\.254 is not on"):
            await fetcher.fetch(f"http://rebind.example:{port}/")

    run(test, answer_with(reply(status="302 Found", Location="/again")), lookup=rebinding)


def test_the_socket_itself_refuses_an_address_that_slipped_through():
    async def test(fetcher, port):
        for family, host in ((socket.AF_INET, "10.0.0.1"), (socket.AF_INET6, "::1")):
            with pytest.raises(RequestError, match="not on the public internet"):
                fetcher._open_socket((family, socket.SOCK_STREAM, 0, "", (host, 80)))

    run(test)


def test_redirects_are_followed_up_to_the_cap_and_the_last_url_is_reported():
    async def respond(request, writer):
        left = int(request.path[1:])
        return reply("done") if left == 0 else reply(status="301 Moved", Location=f"{left - 1}#part")

    async def test(fetcher, port):
        page = await fetcher.fetch(f"http://127.0.0.1:{port}/5")
        assert page.text == "done"
        assert page.url == f"http://127.0.0.1:{port}/0"
        with pytest.raises(RequestError, match="more than 5 redirects"):
            await fetcher.fetch(f"http://127.0.0.1:{port}/6")

    run(test, respond)


def test_nothing_about_the_reader_is_sent():
    seen = []

    async def respond(request, writer):
        seen.append(request.headers)
        return reply(status="302 Found", Location="/x", Set_Cookie="id=1")

    with pytest.raises(RequestError):
        run(lambda fetcher, port: fetcher.fetch(f"http://127.0.0.1:{port}/"), respond)
    assert len(seen) == 6
    assert all(headers.keys() <= {"host", "accept", "accept-encoding", "user-agent", "connection"} for headers in seen)


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert fetched(reply("direct")).text == "direct"


LIMITS = FetchLimits(wire_bytes=10_000, decoded_bytes=50_000, total_s=20)


def test_a_page_at_the_cap_passes_and_one_byte_more_does_not():
    assert len(fetched(reply(b"x" * 10_000), limits=LIMITS).text) == 10_000
    error = failure(reply(b"x" * 10_001), limits=LIMITS)
    assert (error.kind, str(error), error.retryable) == ("too_large", "more than 10,000 bytes", False)


def test_an_endless_page_is_cut_off_while_it_streams():
    sent = []

    async def respond(request, writer):
        writer.write(reply(Content_Length=None))
        while True:
            writer.write(b"x" * 65536)
            sent.append(65536)
            await writer.drain()

    with pytest.raises(RequestError, match="more than 5,000,000 bytes"):
        run(lambda fetcher, port: fetcher.fetch(f"http://127.0.0.1:{port}/"), respond)
    assert sum(sent) < 50_000_000  # what the sockets' buffers hold beyond the cap, and not gigabytes


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda data: zlib.compress(data, wbits=-15)])
def test_compressed_pages_are_read_up_to_the_decoded_cap(pack):
    encoding = "gzip" if pack is gzip.compress else "deflate"
    assert fetched(reply(pack(b"x" * 50_000), Content_Encoding=encoding), limits=LIMITS).text == "x" * 50_000
    error = failure(reply(pack(b"x" * 50_001), Content_Encoding=encoding), limits=LIMITS)
    assert (error.kind, str(error)) == ("too_large", "more than 50,000 bytes once decompressed")


def test_a_gzip_bomb_costs_no_more_memory_than_the_cap():
    import tracemalloc

    bomb = reply(gzip.compress(bytes(30_000_000)), Content_Encoding="gzip")
    tracemalloc.start()
    assert failure(bomb, limits=LIMITS).kind == "too_large"
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_only_the_encoding_that_is_declared_is_undone():
    assert fetched(reply(gzip.compress(b"inner"), content_type="text/plain")).text != "inner"


def test_gzip_members_are_joined_and_junk_behind_them_is_ignored():
    body = gzip.compress(b"one ") + gzip.compress(b"two") + b"\0\0junk"
    assert fetched(reply(body, Content_Encoding="gzip")).text == "one two"


def test_damaged_gzip_may_be_tried_again():
    error = failure(reply(b"\x1f\x8bnonsense", Content_Encoding="gzip"))
    assert (error.kind, str(error), error.retryable) == ("unreadable", "damaged gzip data", True)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "rot13"])
def test_encodings_that_were_not_asked_for_are_refused(encoding):
    assert "was not asked for" in str(failure(reply("x", Content_Encoding=encoding)))


@pytest.mark.parametrize("content_type", ["image/png", "application/pdf", "application/octet-stream", "video/mp4"])
def test_other_content_than_text_is_refused(content_type):
    error = failure(reply("x", content_type=content_type))
    assert (error.kind, str(error)) == ("unreadable", f"{content_type}, and only text can be read")


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/json",
        "application/xhtml+xml",
        "image/svg+xml",
        "application/csv",
        "application/x-ndjson",
    ],
)
def test_text_of_other_kinds_is_read(content_type):
    if content_type == "image/svg+xml":
        assert failure(reply("x", content_type=content_type)).kind == "unreadable"
    else:
        assert fetched(reply("x", content_type=content_type)).content_type == content_type


def test_without_a_content_type_text_is_read_and_binary_data_is_not():
    assert fetched(reply("plain", content_type=None)).text == "plain"
    assert "binary data" in str(failure(reply(b"MZ\0\0", content_type=None)))


@pytest.mark.parametrize("header", ["html", "*/*", ";charset=utf-8", "text/html, text/html", "text/html charset=utf-8"])
def test_a_content_type_that_is_none_or_named_twice_leaves_a_page_html(header):
    page = fetched(reply("<p>Zoë", content_type=header))
    assert is_html(page.content_type)
    assert page.text == "<p>Zoë"


def test_the_charset_of_the_header_is_used():
    assert fetched(reply("Zoë".encode("cp1252"), content_type="text/html; charset=windows-1252")).text == "Zoë"
    assert fetched(reply("Zoë".encode("cp1252"), content_type="text/html; charset=utf-8")).text == "Zo\ufffd"
    assert fetched(reply("Zoë".encode("cp1252"), content_type="text/html; charset=x-user-defined")).text == "Zoë"


@pytest.mark.parametrize(
    ("status", "retryable"),
    [("404 Not Found", False), ("403 No", False), *((f"{status} Slow", True) for status in (424, 425, 429, 499, 500))],
)
def test_a_refusal_of_the_server_carries_its_status_and_whether_to_try_again(status, retryable):
    error = failure(reply("no", status=status, Retry_After="7"))
    assert (error.kind, error.status, error.retryable) == ("status", int(status[:3]), retryable)
    assert error.retry_after_s == 7


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), (" 1.5 ", 1.5), ("-1", None), ("1e9", None), ("soon", None), (None, None)],
)
def test_retry_after_is_read_in_seconds(header, seconds):
    assert retry_after_s(header) == seconds


def test_a_date_in_retry_after_is_counted_from_now():
    assert 3590 < retry_after_s(formatdate(time.time() + 3600, usegmt=True)) <= 3600


def test_a_stalled_page_ends_at_the_deadline():
    async def respond(request, writer):
        writer.write(reply(Content_Length=100) + b"half")
        await writer.drain()
        await asyncio.Event().wait()

    with pytest.raises(RequestError, match="no complete reply in time") as caught:
        run(lambda fetcher, port: fetcher.fetch(f"http://127.0.0.1:{port}/"), respond, limits=FetchLimits(total_s=0.2))
    assert caught.value.kind == "timeout"
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (reply(b"cut", Content_Length=100), "connection"),
        (b"", "connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "unreadable"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 20_000 + b"\r\n\r\n", "unreadable"),
        (reply(status="302 Found"), "unreadable"),
    ],
)
def test_broken_replies_are_named(data, kind):
    assert failure(data).kind == kind


def test_a_closed_port_is_a_connection_failure():
    async def main():
        async with serve(answer_with(b"")) as port:
            pass
        async with SafeFetcher(test_only_loopback_ports=[port]) as fetcher:
            await fetcher.fetch(f"http://127.0.0.1:{port}/")

    with pytest.raises(RequestError, match="no connection") as caught:
        asyncio.run(main())
    assert (caught.value.kind, caught.value.retryable) == ("connection", True)


def test_a_name_without_an_address_is_not_tried_again():
    async def nothing(host, port):
        return []

    async def main(**settings):
        async with SafeFetcher(**settings) as fetcher:
            await fetcher.fetch("http://nobody.invalid/")

    with pytest.raises(RequestError, match=r"nobody\.invalid has no address") as caught:
        asyncio.run(main(lookup=nothing))
    assert not caught.value.retryable
    with pytest.raises(RequestError, match=r"nobody\.invalid cannot be resolved"):
        asyncio.run(main())


def refresh(target, seconds=0):
    return reply(f'<html><head><meta http-equiv="refresh" content="{seconds}; url={target}"></head><p>Moved.')


def test_a_page_that_leads_on_by_itself_is_followed_up_to_the_cap():
    async def respond(request, writer):
        left = int(request.path[1:])
        return reply("done") if left == 0 else refresh(f"{left - 1}#part")

    async def test(fetcher, port):
        page = await fetcher.fetch(f"http://127.0.0.1:{port}/5")
        assert (page.text, page.url) == ("done", f"http://127.0.0.1:{port}/0")
        with pytest.raises(RequestError, match="more than 5 redirects"):
            await fetcher.fetch(f"http://127.0.0.1:{port}/6")

    run(test, respond)


def test_every_hostile_url_is_refused_behind_a_refresh_too():
    async def respond(request, writer):
        url = HOSTILE[int(request.path[1:])] if request.path[1:].isdigit() else "/"
        return reply(f"<meta http-equiv=refresh content='0; url={url}'>".encode("utf-8", "replace"))

    async def test(fetcher, port):
        kinds = {}
        for number, url in enumerate(HOSTILE):
            try:
                await fetcher.fetch(f"http://127.0.0.1:{port}/{number}")
                kinds[url] = "read"
            except RequestError as error:
                kinds[url] = error.kind
        return {url: kind for url, kind in kinds.items() if kind != "refused"}

    # Without a host they are relative, and lead back to the server that sent them.
    assert run(test, respond).keys() <= {"http://", "http:///etc/passwd", "http://\ud800/"}


@pytest.mark.parametrize(
    "data",
    [
        refresh("/"),  # renews itself
        refresh("/#top"),
        refresh("/elsewhere", seconds=300),
        reply("<meta http-equiv=refresh content=60>Moved."),
        reply("<meta http-equiv=refresh content='0; url=/x'>Moved.", content_type="text/plain"),
        reply("<!-- <meta http-equiv=refresh content='0; url=/x'> -->Moved."),
    ],
)
def test_a_page_that_is_meant_to_be_read_is_read(data):
    page = fetched(data)
    assert "Moved." in page.text
    assert page.url.endswith("/")


def test_a_refresh_in_the_header_is_followed_too():
    async def respond(request, writer):
        return reply("done") if request.path == "/there" else reply("x", Refresh="0; url=/there")

    assert run(lambda fetcher, port: fetcher.fetch(f"http://127.0.0.1:{port}/"), respond).text == "done"


@pytest.mark.parametrize("content_type", ["application/pdf", "application/octet-stream", "text/html", None])
def test_a_pdf_is_fetched_whatever_the_server_calls_it(content_type):
    assert fetched(reply(b"%PDF-1.4\n\0\0", content_type=content_type)).body == b"%PDF-1.4\n\0\0"


def test_a_page_in_utf_16_is_text_though_it_has_zero_bytes():
    assert fetched(reply("Zoë".encode("utf-16"), content_type=None)).text == "Zoë"
