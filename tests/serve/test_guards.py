import httpx
import pytest

from saccade.serve.settings import LOOPBACK, Access
from tests.serve.asking import GatedEngine, ask, form, picture

TOKEN = "a-token-of-many-letters"
LOCAL = Access(hosts=LOOPBACK)
PROXIED = Access(hosts=(*LOOPBACK, "cells.example.org"))


def post(engine: GatedEngine, access: Access, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def questions(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/predict", files=form(picture()), headers=named)

    return ask(engine, questions, access=access)


@pytest.mark.parametrize(
    ("access", "host", "status"),
    [
        (LOCAL, "localhost:8000", 200),
        (LOCAL, "LOCALHOST", 200),
        (LOCAL, "127.0.0.1:9", 200),
        (LOCAL, "[::1]:8000", 200),
        (LOCAL, "evil.example:8000", 421),
        (LOCAL, "localhost.evil.example", 421),
        (LOCAL, "evil.example@localhost", 421),
        (LOCAL, "localhost/x", 421),
        (LOCAL, "", 421),
        (LOCAL, "[", 421),
        (PROXIED, "cells.example.org", 200),
        (Access(), "any.example", 200),
    ],
)
def test_a_name_that_somebody_pointed_here_is_refused(
    engine: GatedEngine, access: Access, host: str, status: int
) -> None:
    assert post(engine, access, Host=host).status_code == status


@pytest.mark.parametrize(
    ("access", "headers", "status"),
    [
        (LOCAL, {}, 200),
        (LOCAL, {"Origin": "http://localhost:8000"}, 200),
        (LOCAL, {"Origin": "http://localhost:8000", "Sec_Fetch_Site": "same-origin"}, 200),
        (LOCAL, {"Origin": "http://localhost:3000"}, 403),
        (LOCAL, {"Origin": "http://localhost"}, 403),
        (LOCAL, {"Origin": "http://evil.example"}, 403),
        (LOCAL, {"Origin": "null"}, 403),
        (LOCAL, {"Origin": ""}, 403),
        (LOCAL, {"Origin": "http://localhost:eighty"}, 403),
        (LOCAL, {"Sec_Fetch_Site": "cross-site"}, 403),
        (LOCAL, {"Sec_Fetch_Site": "same-site"}, 403),
        (PROXIED, {"Origin": "https://cells.example.org"}, 200),
        (PROXIED, {"Origin": "https://evil.example"}, 403),
        (PROXIED, {"Origin": "http://127.0.0.1:3000"}, 403),
        (Access(), {"Host": "a.example", "Origin": "https://a.example"}, 200),
        (Access(), {"Host": "a.example:80", "Origin": "http://a.example"}, 200),
        (Access(), {"Host": "a.example", "Origin": "https://b.example"}, 403),
    ],
)
def test_pages_of_other_sites_may_not_ask(
    engine: GatedEngine, access: Access, headers: dict[str, str], status: int
) -> None:
    answer = post(engine, access, **headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json() == {"detail": "pages of other sites may not ask this server."}
        assert not engine.batches


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer é", 401),
        ("", 401),
    ],
)
def test_a_token_is_asked_for(engine: GatedEngine, authorization: str, status: int) -> None:
    answer = post(engine, Access(token=TOKEN), Authorization=authorization.encode())
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert not engine.batches


def test_only_what_tells_nothing_is_open_without_the_token(engine: GatedEngine) -> None:
    open_paths = ["/", "/health", "/docs", "/openapi.json", "/viewer/index.html"]
    others = ["/models", "/metrics", "/nope", "/docs/x"]

    async def questions(client: httpx.AsyncClient) -> list[int]:
        return [(await client.get(path)).status_code for path in (*open_paths, *others)]

    assert ask(engine, questions, access=Access(token=TOKEN)) == [200] * 5 + [401] * 4


@pytest.mark.parametrize("host", ["a/viewer/", "a/docs?", "a/docs#"])
def test_a_path_in_host_opens_nothing(engine: GatedEngine, host: str) -> None:
    async def questions(client: httpx.AsyncClient) -> int:
        return (await client.get("/models", headers={"Host": host})).status_code

    assert ask(engine, questions, access=Access(token=TOKEN)) == 401


def test_the_token_is_not_shown(engine: GatedEngine) -> None:
    assert TOKEN not in repr(Access(token=TOKEN))
