"""Downloads from a real server that also breaks off, lies, resumes, or is away."""

import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from locum.data.fetch import download
from locum.errors import DataError, Unavailable

BODY = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/good resumes; /cut breaks off half way; /whole ignores Range; /altered and /long send other bytes; else 404."""

    def do_GET(self):
        self.server.asked.append(self.headers.get("Range"))
        kind = self.path.strip("/")
        if kind not in ("good", "cut", "whole", "altered", "long"):
            self.send_error(404)
            return
        body = {"altered": BODY[:-1] + b"x", "long": BODY + b"more"}.get(kind, BODY)
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in self.headers and kind != "whole" else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.wfile.write(body[start : len(body) // 2] if kind == "cut" else body[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.asked = []
        httpd.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def bring(url, to, **kwargs):
    return download(url, to, sha256=DIGEST, size=len(BODY), **kwargs)


def test_a_download_with_progress(server, tmp_path):
    seen = []
    path = bring(f"{server.url}/good", tmp_path / "new" / "f.bin", progress=lambda *a: seen.append(a))
    assert path.read_bytes() == BODY
    assert seen[-1] == ("f.bin", len(BODY), len(BODY))
    assert [have for _, have, _ in seen] == sorted(have for _, have, _ in seen)
    assert [p.name for p in path.parent.iterdir()] == ["f.bin"]


@pytest.mark.parametrize("then", ["good", "whole"])
def test_a_truncated_download_goes_on_where_it_broke_off(server, tmp_path, then):
    to = tmp_path / "f.bin"
    with pytest.raises(Unavailable, match=r"cannot be downloaded|ended after"):
        bring(f"{server.url}/cut", to)
    assert not to.exists()
    have = (tmp_path / "f.bin.part").stat().st_size
    assert 0 < have <= len(BODY) // 2
    assert bring(f"{server.url}/{then}", to).read_bytes() == BODY
    assert server.asked == [None, f"bytes={have}-"]


@pytest.mark.parametrize("kind", ["altered", "long"])
def test_other_bytes_are_never_put_in_place(server, tmp_path, kind):
    with pytest.raises(DataError, match=r"not the file that the registry knows|more than"):
        bring(f"{server.url}/{kind}", tmp_path / "f.bin")
    assert list(tmp_path.iterdir()) == []
    assert bring(f"{server.url}/good", tmp_path / "f.bin").read_bytes() == BODY


def test_an_altered_part_is_found_out_and_then_dropped(server, tmp_path):
    (tmp_path / "f.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="SHA-256"):
        bring(f"{server.url}/good", tmp_path / "f.bin")
    assert bring(f"{server.url}/good", tmp_path / "f.bin").read_bytes() == BODY


def test_a_complete_part_needs_no_network(tmp_path):
    (tmp_path / "f.bin.part").write_bytes(BODY)
    assert bring("http://127.0.0.1:9/", tmp_path / "f.bin").read_bytes() == BODY


def test_not_found_and_away(server, tmp_path):
    with pytest.raises(Unavailable) as caught:
        bring(f"{server.url}/absent", tmp_path / "f.bin")
    assert "404" in caught.value.why
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable) as caught:
            bring(f"http://127.0.0.1:{free.getsockname()[1]}/f.bin", tmp_path / "f.bin")
    assert "LOCUM_DATA_DIR" in caught.value.fix


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable) as caught:
        bring(f"{server.url}/good", tmp_path / "file" / "f.bin")
    assert "LOCUM_CACHE" in caught.value.fix
