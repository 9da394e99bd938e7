"""The pages over HTTP: who gets them, in which language, and what they show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mirror.core.repo import Repo
from mirror.derived.state import State
from mirror.sources.first_found import FirstFound
from mirror.sources.hf_cache import HfCache
from mirror.web.access import Signer
from mirror.web.app import create_app
from mirror.web.proxy import ProxySettings
from tests.conftest import Serve
from tests.folders import COMMIT, FILES, Content, make_managed, make_safetensors
from tests.servers import run_server

BROWSER = {
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
}
CLIENTS = (
    None, "*/*", "application/json", "application/json, text/html", "text/plain",
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, "
    "text/html; q=0.01",
    "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.xet-fileinfo+json",
)  # fmt: skip
ADDRESSES = (
    "/models", "/datasets", "/Org", "/Org/Model", "/Org/Model/tree/main",
    "/Org/Model/blob/main/config.json", "/-/status", "/datasets/Org/Data",
)  # fmt: skip
TOKEN = "a-token-of-this-mirror"


@pytest.fixture
def client(serve: Serve, hub: Path, managed: HfCache) -> httpx2.Client:
    make_managed(hub)
    client = serve(managed)
    client.headers.pop("accept", None)
    return client


def get(client: httpx2.Client, path: str, **headers: str) -> httpx2.Response:
    return client.get(path, headers={**BROWSER, **headers})


@pytest.mark.parametrize("accept", CLIENTS)
@pytest.mark.parametrize("path", ADDRESSES)
def test_a_client_of_the_api_gets_no_page(
    client: httpx2.Client, path: str, accept: str | None
) -> None:
    request = client.build_request("GET", path)
    request.headers.pop("accept", None)
    if accept:
        request.headers["accept"] = accept
    answer = client.send(request)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert "html" not in answer.text


def test_the_first_address_stays_a_text_for_other_clients(client: httpx2.Client) -> None:
    assert client.get("/", headers={"accept": "*/*"}).text.startswith("This is hubmirror")
    assert get(client, "/").text.startswith("<!doctype html>")
    assert client.get("/", headers={"accept": "*/*"}).text.startswith("This is hubmirror")


@pytest.mark.parametrize("path", [path for path in ADDRESSES if "Data" not in path] + ["/"])
def test_a_browser_gets_a_page_that_loads_nothing_from_elsewhere(
    client: httpx2.Client, path: str
) -> None:
    answer = get(client, path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert answer.headers["vary"] == "Accept, Accept-Language, Cookie"
    assert 'src="http' not in answer.text
    assert "<style" not in answer.text


def test_the_api_answers_a_browser_as_ever(client: httpx2.Client) -> None:
    for path in ("/api/models", "/api/models/Org/Model", "/Org/Model/resolve/main/config.json"):
        assert get(client, path).content == client.get(path).content


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/Org/Absent", 404, "RepoNotFound"),
        ("/Org/Model/tree/absent", 404, "RevisionNotFound"),
        ("/Org/Model/blob/main/absent.txt", 404, "EntryNotFound"),
        ("/Org/Model/resolve/main/absent.txt", 404, "EntryNotFound"),
        ("/nobody", 404, "RepoNotFound"),
        ("/no/such/address/at/all", 404, None),
        ("/<script>alert(1)<", 400, None),
    ],
)
def test_an_error_is_a_page_with_the_words_of_the_api(
    client: httpx2.Client, path: str, status: int, code: str | None
) -> None:
    with_page = get(client, path)
    plain = client.get(path, headers={"accept": "*/*"})
    assert with_page.headers["content-type"].startswith("text/html")
    assert with_page.status_code == status
    assert with_page.headers.get("x-error-code") == code
    assert "<script>" not in with_page.text
    if plain.status_code == status and plain.headers.get("x-error-code") == code:
        said = plain.json()["error"].split("'")[0].split("/")[0]
        assert said[:30] in with_page.text


def test_the_language_is_that_of_the_browser_of_the_query_or_of_the_cookie(
    hub: Path, managed: HfCache, state: State
) -> None:
    """With the cache of responses, which must keep them apart."""
    make_managed(hub)
    app = create_app(FirstFound([managed]), state, ttl_s=60)
    with run_server(app) as url, httpx2.Client(base_url=url) as client:
        assert "Models" in get(client, "/").text
        assert "模型" in get(client, "/", **{"accept-language": "zh-CN,zh;q=0.9"}).text
        assert "Models" in get(client, "/", **{"accept-language": "en-US"}).text
        assert 'data-theme="dark"' in get(client, "/", cookie="hubmirror_theme=dark").text
        assert "data-theme" not in get(client, "/").text
        chosen = get(client, "/?lang=zh")
        assert "模型" in chosen.text
        assert chosen.headers["set-cookie"].startswith("hubmirror_lang=zh; Path=/;")
        client.cookies.clear()
        assert "模型" in get(client, "/Org/Model", cookie="hubmirror_lang=zh").text
        assert "Card" in get(client, "/Org/Model", cookie="hubmirror_lang=xx").text
        assert client.get("/", headers={"accept": "*/*"}).text.startswith("This is")


def test_search_and_filters_are_in_the_address(serve: Serve, hub: Path, managed: HfCache) -> None:
    for name, text in (
        ("a/Tiny-Llama", "license: mit\npipeline_tag: text-generation"),
        ("a/Other", "license: apache-2.0\npipeline_tag: fill-mask\nlibrary_name: timm"),
        ("b/Quant-GGUF", "license: mit"),
    ):
        files = {"README.md": f"---\n{text}\n---\n# x\n".encode()}
        if name.endswith("GGUF"):
            files["q-Q4_K_M.gguf"] = b"GGUF"
        make_managed(hub, Content(files, COMMIT, Repo.parse(name)))
    client = serve(managed)

    def found(query: str) -> set[str]:
        text = get(client, f"/{query}").text
        names = {"a/Tiny-Llama", "a/Other", "b/Quant-GGUF"}
        return {name for name in names if f'href="/{name}"' in text}

    assert len(found("")) == 3
    assert found("?q=LLAMA") == {"a/Tiny-Llama"}
    assert found("?task=fill-mask") == {"a/Other"}
    assert found("?library=timm") == {"a/Other"}
    assert found("?license=mit&q=quant") == {"b/Quant-GGUF"}
    assert found("?quantisation=gguf") == {"b/Quant-GGUF"}
    assert len(found("?size=1&sort=size")) == 3
    assert found("?size=more") == set()
    assert len(found("?task=&sort=nonsense&page=x")) == 3
    assert found("?page=99999") == found("")
    assert found("?task=%3Cscript%3E") == set()
    assert "<script>" not in get(client, "/?task=%3Cscript%3E&q=%3Cscript%3E").text
    assert "a/Tiny-Llama" in get(client, "/A").text


def test_the_page_of_a_model_has_its_facts_and_commands(
    serve: Serve, hub: Path, managed: HfCache
) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    }  # fmt: skip
    files = {
        **FILES,
        "config.json": json.dumps(config).encode(),
        "model.safetensors": make_safetensors({"a": ("BF16", [1000, 1000])}),
        "generation_config.json": b'{"assistant_model": "Org/Base"}',
        "tokenizer_config.json": b'{"chat_template": "{{ <b>messages }}"}',
    }
    make_managed(hub, Content(files))
    client = serve(managed)
    text = get(client, "/Org/Model").text
    base = str(client.base_url).rstrip("/")
    for wanted in (
        f"export HF_ENDPOINT={base}", "vllm serve Org/Model", "hf download Org/Model",
        "AutoModelForCausalLM.from_pretrained(&#39;Org/Model&#39;)", "1M", "BF16", "4,096 tokens",
        "2 × 2 × 2 × 16 × 4096 × 2", "hubmirror pull Org/Base", COMMIT, "{{ &lt;b&gt;messages }}",
        f"curl -L -O {base}/Org/Model/resolve/main/config.json", "docker run",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_files_are_shown_in_a_form_that_people_read(
    serve: Serve, hub: Path, managed: HfCache
) -> None:
    names = {f"many/{index:05}.txt": b"" for index in range(2500)}
    files = {
        **names,
        "a.csv": b"x,y\n1,<b>\n",
        "a.jsonl": b'{"x": 1}\n{"x": [2]}\n',
        "a.py": b"import os\n",
        "weights.safetensors": make_safetensors({"layer<b>": ("F16", [3, 5])}),
        "broken.safetensors": b"\xff" * 100,
        "broken.csv": b"\x00\x01\x02",
        "binary.dat": bytes(range(256)),
        "long.txt": b"line\n" * 100_000,
        "odd <b>&'\" \u202e.txt": b"odd",
        "README.md": b"\xff\xfe" + "# Umlaut ü".encode("utf-16-le"),
    }
    make_managed(hub, Content(files))
    client = serve(managed)

    def shown(path: str) -> str:
        answer = get(client, f"/Org/Model/blob/main/{path}")
        assert answer.status_code == 200
        assert "<b>" not in answer.text
        return answer.text

    assert "<td><bdi>&lt;b&gt;</bdi></td>" in shown("a.csv")
    assert "<td><bdi>[2]</bdi></td>" in shown("a.jsonl")
    assert '<span class="kn">import</span>' in shown("a.py")
    assert "3 × 5" in shown("weights.safetensors")
    for path in ("broken.safetensors", "broken.csv", "binary.dat"):
        assert "There is no preview" in shown(path)
    assert "Only the beginning" in shown("long.txt")
    assert "odd" in shown("odd%20%3Cb%3E%26'%22%20%E2%80%AE.txt")
    assert "Umlaut ü" in shown("README.md")
    folder = get(client, "/Org/Model/tree/main/many").text
    assert "00999.txt" in folder
    assert "01000.txt" not in folder
    assert "02499.txt" in get(client, "/Org/Model/tree/main/many?page=3").text
    assert "Umlaut" in get(client, "/Org/Model").text


@pytest.mark.parametrize("body", [b"", bytes(range(256)) * 10, b"---\na: 1\n---\n", b"---\n: [\n"])
def test_each_card_gives_a_page(serve: Serve, hub: Path, managed: HfCache, body: bytes) -> None:
    make_managed(hub, Content({"README.md": body}))
    assert get(serve(managed), "/Org/Model").status_code == 200


def test_the_status_names_what_is_missing_and_what_mends_it(
    serve: Serve, hub: Path, managed: HfCache
) -> None:
    folder = make_managed(hub)
    weights = Content().entries["model.safetensors"]
    (folder / "blobs" / weights.etag).unlink()
    client = serve(managed)
    found = client.get("/-/status.json").json()
    assert found["is_whole"] is False
    assert found["waiting"] == 1
    (problem,) = found["slow"]["problems"]
    assert problem["command"] == f"hubmirror pull Org/Model@{COMMIT}"
    assert problem["state"] == "waiting"
    text = get(client, "/-/status").text
    assert problem["command"] in text
    assert str(hub) not in text + json.dumps(found)


def test_an_empty_mirror_shows_how_to_fill_it(serve: Serve, managed: HfCache) -> None:
    client = serve(managed)
    text = get(client, "/").text
    for command in ("hubmirror pull", "hubmirror push", "hf download"):
        assert command in text
    assert "This mirror is empty" in get(client, "/-/status").text


def test_a_pull_in_another_process_is_shown(serve: Serve, hub: Path, managed: HfCache) -> None:
    from mirror.sources.pull_status import RunningPull  # noqa: PLC0415

    make_managed(hub)
    client = serve(managed)
    with RunningPull(hub, Repo.parse("Org/Large"), "main", COMMIT, 1000) as pull:
        pull.advance(400)
        (running,) = client.get("/-/status.json").json()["running"]
        assert (running["name"], running["size"]) == ("Org/Large", 1000)
        assert "Org/Large" in get(client, "/-/status").text
    assert client.get("/-/status.json").json()["running"] == []


def test_a_status_file_that_is_half_written_spoils_nothing(
    serve: Serve, hub: Path, managed: HfCache
) -> None:
    make_managed(hub)
    folder = hub / ".hubmirror" / "pulls"
    folder.mkdir(parents=True)
    (folder / "models--Org--Model.json").write_bytes(b'{"pid": 1, "recei')
    assert get(serve(managed), "/-/status").status_code == 200


def test_a_proxy_can_add_a_path(serve: Serve, hub: Path, managed: HfCache) -> None:
    make_managed(hub)
    client = serve(managed, proxy=ProxySettings(public_url="https://site.example/hub/"))
    for path in ("/", "/Org/Model", "/Org/Model/tree/main", "/-/status", "/Org/Absent"):
        text = get(client, path).text
        links = [part.split('"')[0] for part in text.replace("src=", "href=").split('href="')[1:]]
        assert links
        assert all(link.startswith(("/hub/", "#")) for link in links), (path, links)


def test_no_address_leads_to_another_host(client: httpx2.Client) -> None:
    for path in ("//evil.example/x", "/%5Cevil.example", "/\\evil.example/x"):
        answer = client.send(
            client.build_request("GET", f"{client.base_url}{path}", headers=BROWSER)
        )
        assert 'href="//' not in answer.text
        assert 'href="/\\' not in answer.text


def test_static_files_may_be_kept_for_ever(client: httpx2.Client) -> None:
    text = get(client, "/").text
    names = {part.split('"')[0] for part in text.split("/-/static/")[1:]}
    assert len(names) == 3
    for name in names:
        answer = client.get(f"/-/static/{name}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert client.get("/-/static/style.css").status_code == 404


class TestSignIn:
    """On a mirror with a token."""

    @pytest.fixture
    def closed(self, serve: Serve, hub: Path, managed: HfCache) -> httpx2.Client:
        make_managed(hub)
        return serve(managed, proxy=ProxySettings(signer=Signer(TOKEN)))

    def sign_in(self, client: httpx2.Client, **form: str) -> httpx2.Response:
        headers: dict[str, Any] = {**BROWSER, "sec-fetch-site": "same-origin"}
        return client.post("/-/sign-in", data=form, headers=headers)

    def test_a_browser_gets_the_form_and_no_dialog(self, closed: httpx2.Client) -> None:
        answer = get(closed, "/Org/Model?x=1")
        assert answer.status_code == 401
        assert 'name="next" value="/Org/Model?x=1"' in answer.text
        assert "Basic" not in answer.headers["www-authenticate"]
        assert "Basic" in closed.get("/Org/Model").headers["www-authenticate"]
        for part in answer.text.split("/-/static/")[1:]:
            assert closed.get(f"/-/static/{part.split(chr(34))[0]}").status_code == 200

    def test_the_token_gives_a_cookie_that_reads(self, closed: httpx2.Client) -> None:
        answer = self.sign_in(closed, token=TOKEN, next="/Org/Model?x=1")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/Org/Model?x=1"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        session = cookie.partition(";")[0]
        closed.cookies.clear()
        assert get(closed, "/Org/Model", cookie=session).status_code == 200
        assert get(closed, "/api/models", cookie=session).status_code == 200
        assert get(closed, "/Org/Model", cookie=f"{session}0").status_code == 401
        wrote = closed.post("/api/models/Org/Model/paths-info/main", headers={"cookie": session})
        assert wrote.status_code == 401

    def test_a_wrong_token_is_refused_and_soon_no_more_tried(self, closed: httpx2.Client) -> None:
        statuses = [self.sign_in(closed, token="wrong").status_code for _ in range(8)]
        assert statuses[0] in (401, 429)
        assert statuses[-1] == 429
        assert self.sign_in(closed, token=TOKEN).status_code == 429

    @pytest.mark.parametrize(
        "target", ["https://evil.example/", "//evil.example", "/\\evil.example"]
    )
    def test_signing_in_leads_to_no_other_host(self, closed: httpx2.Client, target: str) -> None:
        answer = self.sign_in(closed, token=TOKEN, next=target)
        location = answer.headers.get("location", "/")
        assert location.startswith("/")
        assert location[1:2] not in ("/", "\\")

    def test_a_form_of_another_host_is_refused(self, closed: httpx2.Client) -> None:
        for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
            answer = closed.post("/-/sign-in", data={"token": TOKEN}, headers=headers)
            assert answer.status_code == 403


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("datasets/Org/Data", ("load_dataset(&#39;Org/Data&#39;)", "--repo-type dataset")),
        ("kernels/Org/Kernel", ("get_kernel(&#39;Org/Kernel&#39;", "from kernels import")),
        ("spaces/Org/Space", ("--repo-type space",)),
    ],
)
def test_each_type_of_repository_has_pages_and_commands(
    serve: Serve, hub: Path, managed: HfCache, name: str, commands: tuple[str, ...]
) -> None:
    make_managed(hub, Content({"README.md": b"# x"}, COMMIT, Repo.parse(name)))
    client = serve(managed)
    text = get(client, f"/{name}").text
    assert all(command in text for command in commands)
    assert f'href="/{name}/tree/main"' in text
    assert get(client, f"/{name}/blob/main/README.md").status_code == 200
    assert f'href="/{name}"' in get(client, f"/{name.partition('/')[0]}").text
    assert f'href="/{name}"' in get(client, "/Org").text
