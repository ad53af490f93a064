import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch

from esrgan import EsrganError, Generator, GeneratorConfig, load_model, save_model
from esrgan.cli import main
from esrgan.convert import convert
from esrgan.errors import UsageError
from esrgan.hub import card, pull, push
from esrgan.images import write_rgb
from esrgan.model_file import Header
from esrgan.ncnn_export import write_ncnn

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # otherwise it asks the real Hub which program it runs in
pytest.importorskip("huggingface_hub")
SHA = "1" * 40


class Hub(BaseHTTPRequestHandler):
    """The endpoints of the Hub that are used, for one repository, ``someone/tiny``."""

    files: dict[str, bytes]
    log: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/models/someone/tiny/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            self.reply({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif self.path == "/api/models/someone/tiny/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.address}/someone/tiny/commit/{SHA}"
            self.reply({"commitUrl": url, "commitOid": SHA, "success": True, "pullRequestUrl": None})
        elif self.path == "/api/repos/create":
            self.reply({"url": f"{self.address}/someone/tiny", "id": "someone/tiny"})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        else:
            self.reply({"error": self.path}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.log.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        if path in ("/api/models/someone/tiny", f"/api/models/someone/tiny/revision/{SHA}"):
            self.reply({"id": "someone/tiny", "sha": SHA, "siblings": [{"rfilename": name} for name in self.files]})
        elif path.startswith("/someone/tiny/resolve/") and (name := path.split("/", 5)[5]) in self.files:
            self.reply(self.files[name])
        else:
            self.reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def reply(self, content: object, code: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        fields = {"Content-Length": str(len(body)), "ETag": etag, "X-Repo-Commit": SHA} | (headers or {})
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    handler = type("Handler", (Hub,), {"files": {}, "log": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = Generator(GeneratorConfig(channels=8, growth=4, blocks=1))
    about = {"licence": "CC0-1.0", "stage": "gan", "recipe": {"steps": 7}}
    save_model(net, tmp_path / "tiny_x4.safetensors", provenance=about)
    return tmp_path / "tiny_x4.safetensors"


def test_a_model_is_pushed_with_its_card_and_pulled_again(
    hub: tuple[str, type[Hub]], model: Path, tmp_path: Path
) -> None:
    endpoint, server = hub
    write_rgb(torch.rand(3, 8, 8), tmp_path / "before.png")
    url = push(model, "someone/tiny", previews=[tmp_path / "before.png"], endpoint=endpoint)
    assert url.endswith("/someone/tiny")
    assert sorted(server.files) == ["README.md", "model.safetensors", "previews/before.png"]
    card = server.files["README.md"].decode()
    for said in ("license: cc0-1.0", "library_name: esrgan", "![before](previews/before.png)", "  - steps: 7"):
        assert said in card
    pulled = pull("hf:someone/tiny", endpoint=endpoint, cache=tmp_path / "cache")
    assert pulled.read_bytes() == model.read_bytes()
    assert load_model(pulled).scale == 4


def test_what_is_there_is_replaced_only_when_asked(hub: tuple[str, type[Hub]], model: Path, tmp_path: Path) -> None:
    endpoint, server = hub
    server.files |= {"README.md": b"written by hand", "model.safetensors": b"another", "notes.txt": b"mine"}
    with pytest.raises(EsrganError, match=r"has README\.md and model\.safetensors already; --overwrite"):
        push(model, "someone/tiny", endpoint=endpoint)
    assert server.files["README.md"] == b"written by hand"
    push(model, "someone/tiny", endpoint=endpoint, overwrite=True)
    assert server.files["model.safetensors"] == model.read_bytes()
    assert server.files["notes.txt"] == b"mine"


def test_two_previews_of_one_name_are_refused(model: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_rgb(torch.rand(3, 8, 8), tmp_path / folder / "x.png")
    with pytest.raises(EsrganError, match="two previews have the same name"):
        push(
            model, "someone/tiny", previews=[tmp_path / "a/x.png", tmp_path / "b/x.png"], endpoint="http://127.0.0.1:9"
        )


def test_a_pulled_model_needs_no_network_any_more(hub: tuple[str, type[Hub]], model: Path, tmp_path: Path) -> None:
    endpoint, server = hub
    server.files["model.safetensors"] = model.read_bytes()
    first = pull("someone/tiny", endpoint=endpoint, cache=tmp_path / "cache")
    asked = len(server.log)
    assert pull("someone/tiny", endpoint="http://127.0.0.1:9", cache=tmp_path / "cache") == first
    assert len(server.log) == asked
    pull("someone/tiny", refresh=True, endpoint=endpoint, cache=tmp_path / "cache")
    assert len(server.log) > asked


def test_one_of_several_files_must_be_chosen(hub: tuple[str, type[Hub]], model: Path, tmp_path: Path) -> None:
    endpoint, server = hub
    server.files |= {"a.safetensors": model.read_bytes(), "sub/b.pth": b"", "README.md": b""}
    with pytest.raises(EsrganError, match=r"choose one: someone/tiny/a\.safetensors, someone/tiny/sub/b\.pth"):
        pull("someone/tiny", endpoint=endpoint, cache=tmp_path / "cache")
    chosen = pull("hf:someone/tiny/a.safetensors", endpoint=endpoint, cache=tmp_path / "cache")
    assert load_model(chosen).scale == 4
    with pytest.raises(EsrganError, match="choose one"):  # though only one of them is in the cache
        pull("someone/tiny", endpoint=endpoint, cache=tmp_path / "cache")


def test_ncnns_two_files_come_together(hub: tuple[str, type[Hub]], model: Path, tmp_path: Path) -> None:
    endpoint, server = hub
    write_ncnn(load_model(model), tmp_path / "n.param", tmp_path / "n.bin")
    server.files |= {f"ncnn/{name}": (tmp_path / name).read_bytes() for name in ("n.param", "n.bin")}
    for address in (endpoint, "http://127.0.0.1:9"):
        pulled = pull("hf:someone/tiny", endpoint=address, cache=tmp_path / "cache")
        assert load_model(pulled).config == load_model(model).config


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("MIT", "license: mit\n"),
        ("CC0-1.0 AND MIT", 'license: other\nlicense_name: "CC0-1.0 AND MIT"\n'),
        ('mine: "all"', 'license: other\nlicense_name: "mine: \\"all\\""\n'),
    ],
)
def test_the_card_names_licences_as_the_hub_wants_them(licence: str, said: str) -> None:
    header = Header(config=GeneratorConfig(), provenance={"licence": licence})
    assert said in card("someone/tiny", header, ["previews/a b.png"])
    assert "![a b](previews/a%20b.png)" in card("someone/tiny", header, ["previews/a b.png"])


def test_what_is_not_on_the_hub_is_one_line(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    for name in ("someone/other", "no//name", "../../etc"):
        with pytest.raises(EsrganError) as error:
            pull(name, endpoint=hub[0], cache=tmp_path / "cache")
        assert "\n" not in str(error.value)


def test_a_hub_out_of_reach_is_one_line(model: Path, tmp_path: Path) -> None:
    with pytest.raises(EsrganError, match="the Hub cannot be used for someone/tiny"):
        pull("someone/tiny", endpoint="http://127.0.0.1:9", cache=tmp_path / "cache")
    with pytest.raises(EsrganError, match="the Hub cannot be used"):
        push(model, "someone/tiny", endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["tiny", "/tiny", "someone/", "hf:tiny"])
def test_a_repository_needs_an_owner_and_a_name(name: str, model: Path, tmp_path: Path) -> None:
    for ask in (lambda: pull(name, cache=tmp_path), lambda: push(model, name)):
        with pytest.raises(UsageError, match="names no repository; give it as owner/name"):
            ask()


def test_only_our_files_and_pictures_that_exist_are_pushed(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "m.pth")
    with pytest.raises(EsrganError, match="esrgan convert"):
        push(tmp_path / "m.pth", "someone/tiny", endpoint="http://127.0.0.1:9")
    with pytest.raises(EsrganError, match="there is no picture"):
        push(model, "someone/tiny", previews=[tmp_path / "no.png"], endpoint="http://127.0.0.1:9")


def test_the_command_pushes_models_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "push", "nosuch", "someone/tiny"]) == 1
    assert "nor one of the models at hand (full_x4_gan, lite_x2_gan" in capsys.readouterr().err
