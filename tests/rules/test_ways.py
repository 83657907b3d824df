"""Which proxy a URL is reached through, in every spelling of the variables that say so."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from package_cache.rules.transfers.requests import raw_request
from package_cache.rules.transfers.ways import HTTP, Origin, Proxy, Way, exempt_in, of_environment, of_pairs

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("http://proxy.example:3128", PROXY),
        ("http://proxy.example:3128/", PROXY),
        ("HTTP://proxy.example:3128", PROXY),
        ("proxy.example:3128", PROXY),
        ("//proxy.example:3128", PROXY),
        (" proxy.example:3128 ", PROXY),
        ("proxy.example", "http://proxy.example"),
        ("me:p%40ss@proxy.example:3128", "http://me:p%40ss@proxy.example:3128"),
        ("https://proxy.example", "https://proxy.example"),
        ("[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("", None),
        ("  ", None),
    ],
)
def test_a_value_names_a_proxy_with_or_without_a_scheme(value: str, url: str | None) -> None:
    assert of_environment({"http_proxy": value}).proxy_for("http://mirror.example/a") == url
    assert of_pairs({"http": value}).proxy_for("http://mirror.example/a") == url


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("socks5://proxy.example:1080", "socks5 is not spoken to proxies here"),
        ("ftp://proxy.example", "ftp is not spoken"),
        ("proxy.example:none", "port is not a number"),
        ("http://proxy.example:99999", "port is not a number"),
        ("http://proxy.example:0", "does not name a host"),
        ("http://", "does not name a host"),
        ("http:///", "does not name a host"),
        ("http://:3128", "does not name a host"),
        ("http://[::1", "port is not a number"),
        ("http://pro xy.example", "does not name a host"),
        ("http://proxy.example/there", "does not name a host"),
    ],
)
def test_what_names_no_proxy_is_told_in_one_line_without_its_password(value: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as told:
        of_environment({"http_proxy": value.replace("proxy.example", "me:secret@proxy.example")}).proxy_for(
            "http://a.example/"
        )
    assert "secret" not in str(told.value)
    assert str(told.value).startswith("http_proxy='")
    assert "\n" not in str(told.value)


def test_what_is_set_and_not_used_may_be_anything() -> None:
    proxies = of_environment({"https_proxy": "socks5://x", "http_proxy": PROXY, "no_proxy": "b.example"})
    assert proxies.proxy_for("http://a.example/") == PROXY
    assert proxies.proxy_for("https://b.example/") is None
    with pytest.raises(ValueError, match="https_proxy"):
        proxies.proxy_for("https://a.example/")


def test_whoever_speaks_to_such_a_proxy_gets_it() -> None:
    proxies = of_environment({"all_proxy": "socks5h://proxy.example:1080"})
    assert proxies.proxy_for("http://a.example/", HTTP | {"socks5h"}) == "socks5h://proxy.example:1080"


@pytest.mark.parametrize(
    ("environment", "http", "https"),
    [
        ({"http_proxy": "a:1"}, "http://a:1", None),
        ({"HTTP_PROXY": "a:1", "HTTPS_PROXY": "b:1"}, "http://a:1", "http://b:1"),
        ({"HTTP_PROXY": "a:1", "http_proxy": "b:1"}, "http://b:1", None),
        ({"HTTP_PROXY": "a:1", "http_proxy": ""}, None, None),
        ({"HTTP_PROXY": "a:1", "REQUEST_METHOD": "GET"}, None, None),
        ({"http_proxy": "a:1", "REQUEST_METHOD": "GET"}, "http://a:1", None),
        ({"all_proxy": "a:1"}, "http://a:1", "http://a:1"),
        ({"ALL_PROXY": "a:1", "https_proxy": "b:1"}, "http://a:1", "http://b:1"),
        ({"all_proxy": "a:1", "http_proxy": ""}, None, "http://a:1"),
        ({"all_proxy": "a:1", "NO_PROXY": "*"}, None, None),
        ({"all_proxy": "a:1", "NO_PROXY": "*", "no_proxy": ""}, "http://a:1", "http://a:1"),
    ],
)
def test_a_name_in_lower_case_goes_before_one_in_capitals_and_a_scheme_before_all(
    environment: dict[str, str], http: str | None, https: str | None
) -> None:
    proxies = of_environment(environment)
    assert proxies.proxy_for("http://mirror.example/a") == http
    assert proxies.proxy_for("https://mirror.example/a") == https


EXEMPT = {
    "mirror.example": ["http://mirror.example/", "http://MIRROR.example:8080/", "http://a.b.mirror.example./"],
    ".mirror.example": ["http://mirror.example/", "http://a.mirror.example/"],
    "*.mirror.example": ["http://mirror.example/", "http://a.mirror.example/"],
    "*": ["http://anything.example/", "https://[::1]/"],
    "mirror.example:8080": ["http://mirror.example:8080/"],
    "mirror.example:80": ["http://mirror.example/"],
    "mirror.example:443": ["https://mirror.example/"],
    "10.0.0.0/8": ["http://10.1.2.3/", "http://10.1.2.3:8080/"],
    "10.1.2.3": ["http://10.1.2.3/"],
    "10.1.2.3:8080": ["http://10.1.2.3:8080/"],
    "10.1.2.3/8": ["http://10.255.0.1/"],
    "2001:db8::/32": ["http://[2001:db8::7]/"],
    "[2001:db8::7]": ["http://[2001:db8::7]/"],
    "[::1]:8080": ["http://[::1]:8080/"],
    "::1": ["http://[0:0:0:0:0:0:0:1]/"],
    "a.example, .b.example\tc.example,,d.example": [f"http://{it}.example/" for it in "abcd"],
    "Mirror.Example": ["http://mirror.example/"],
    "http://mirror.example": ["http://mirror.example/"],
}
THROUGH = {
    "mirror.example": ["http://othermirror.example/", "http://example/"],
    "mirror.example:8080": ["http://mirror.example/"],
    "mirror.example:80": ["https://mirror.example/"],
    "10.0.0.0/8": ["http://11.0.0.1/", "http://10.example/"],
    "10.1.2.3:8080": ["http://10.1.2.3/"],
    "[::1]:8080": ["http://[::1]/"],
    "10.0.0.0/99, mirror.example:x": ["http://10.0.0.1/", "http://mirror.example/"],
    "": ["http://mirror.example/"],
}


@pytest.mark.parametrize("text", EXEMPT)
def test_what_no_proxy_lists_is_reached_without_one(text: str) -> None:
    proxies = of_environment({"all_proxy": PROXY, "no_proxy": text})
    assert [proxies.proxy_for(url) for url in EXEMPT[text]] == [None] * len(EXEMPT[text])
    assert of_pairs({"all": PROXY, "no": text}).proxy_for(EXEMPT[text][0]) is None


@pytest.mark.parametrize("text", THROUGH)
def test_what_no_proxy_does_not_list_is_not(text: str) -> None:
    proxies = of_environment({"all_proxy": PROXY, "no_proxy": text})
    assert [proxies.proxy_for(url) for url in THROUGH[text]] == [PROXY] * len(THROUGH[text])


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_value_is_read_or_refused(value: str, text: str) -> None:
    exempt_in(text)
    with suppress(ValueError):
        of_environment({"http_proxy": value, "no_proxy": text}).proxy_for("http://mirror.example/")


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("http://me:p%40ss@proxy.example:3128", "Basic bWU6cEBzcw=="),
        ("http://me@proxy.example:3128", "Basic bWU6"),
        ("http://proxy.example:3128", None),
    ],
)
def test_a_login_is_told_to_the_proxy_alone(url: str, login: str | None) -> None:
    """In each request that it sees, and in the one for a tunnel: not in those that go through the tunnel."""
    proxy = Proxy.of(url)
    assert proxy.login == login
    field = f"Proxy-Authorization: {login}\r\n".encode()
    seen, through = (
        raw_request("GET", address, (), Way(Origin.of(address), proxy))
        for address in ("http://mirror.example/a", "https://mirror.example/a")
    )
    assert seen.text.startswith(b"GET http://mirror.example/a HTTP/1.1\r\n")
    assert through.text.startswith(b"GET /a HTTP/1.1\r\n")
    assert (field in seen.text, field in through.way.tunnel()) == (login is not None,) * 2
    assert b"Proxy-Authorization" not in through.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_answer_to_a_head_alone_has_no_body(method: str) -> None:
    address = "http://mirror.example/a"
    assert raw_request(method, address, (), Way(Origin.of(address))).of_head is (method == "HEAD")
