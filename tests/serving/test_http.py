"""The server as a client meets it: over loopback, with requests that are right and requests that are not."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from fake_realiad import write_realiad
from PIL import Image

from mvead_jax import Inspector
from mvead_jax.config.schema import BackboneConfig, DataConfig, DecisionConfig
from mvead_jax.jobs.train import train
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.serving.http.app import application
from mvead_jax.serving.http.upload import Limits

uvicorn = pytest.importorskip("uvicorn", reason="the extra serve: pip install '.[serve]'")
pytest.importorskip("fastapi", reason="the extra serve: pip install '.[serve]'")

ROOT = Path(__file__).parents[2]
LIMITS = Limits(most_bytes=200_000, most_pixels=5000, waiting=2, seconds=2)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    root = write_realiad(tmp_path_factory.mktemp("data"), size=40, train=8)
    config = PatchCoreConfig(
        data=DataConfig(root=str(root), image_size=96, categories=("bolt",)),
        backbone=BackboneConfig(name="efficientnet-lite0", weights="random", batch_size=5),
        decision=DecisionConfig(held_out=0.5, false_alarms=0.3),
    )
    folder = tmp_path_factory.mktemp("runs") / "bolt"
    train(config, folder)
    return folder


class Slow:
    """An inspector that can be told to wait."""

    def __init__(self, inspector):
        self._inspector, self.go = inspector, threading.Event()
        self.go.set()

    def __getattr__(self, name):
        return getattr(self._inspector, name)

    def inspect(self, *arguments):
        self.go.wait(20)
        return self._inspector.inspect(*arguments)


@pytest.fixture(scope="module")
def inspector(workdir):
    return Slow(Inspector.load(workdir))


@pytest.fixture(scope="module")
def server(inspector):
    """The address of a server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = application(inspector, LIMITS, keep=2)
        running = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        running.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def png(level=90, size=(40, 40), seed=None):
    pixels = np.full((size[1], size[0], 3), level, np.uint8)
    if seed is not None:
        pixels = np.random.default_rng(seed).integers(0, 255, pixels.shape, np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def five(**others):
    return {**{f"C{number}": png(30 * number) for number in range(1, 6)}, **others}


def post(server, images, **texts):
    # The names that a client gives its files are paths that must never be opened.
    files = {view: ("../../etc/passwd", content) for view, content in images.items()}
    return requests.post(f"{server}/parts", files=files, data=texts, timeout=30)


def test_a_part_gets_the_scores_of_the_inspector_and_a_picture_of_each_view(server, inspector):
    answer = post(server, five(C3=png(seed=1)), sample="part 7", category="bolt")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    images = {view: Image.open(io.BytesIO(content)) for view, content in five(C3=png(seed=1)).items()}
    own = inspector.inspect(images)
    assert {key: found[key] for key in own.as_json()} == json.loads(json.dumps(own.as_json()))
    assert (found["sample"], found["missing"], found["worst_view"]) == ("part 7", [], "C3")
    assert found["decision"]["decision"] == "fail"
    assert list(found["overlays"]) == list(images)
    for view, address in found["overlays"].items():
        shown = requests.get(server + address, timeout=30)
        assert shown.headers["content-type"] == "image/png"
        pixels = np.asarray(Image.open(io.BytesIO(shown.content)))
        np.testing.assert_array_equal(pixels, np.asarray(own.overlay(view)))


def test_a_missing_view_is_named_and_the_others_are_scored(server, caplog):
    caplog.set_level("INFO", "mvead_jax")
    images = five()
    del images["C2"]
    found = post(server, images, sample="half").json()
    assert found["missing"] == ["C2"]
    assert "C2" not in found["overlays"]
    assert [one for one in caplog.messages if one.startswith("bolt half: ") and one.endswith("without C2")]


@pytest.mark.parametrize(
    ("images", "texts", "status", "words"),
    [
        ({}, {"sample": "none"}, 400, "no image; bolt has the views C1"),
        (five(C9=png()), {}, 400, "Too many files. Maximum number of files is 5"),
        ({"C9": png()}, {}, 400, "view C9: unknown; bolt has C1, C2"),
        ({"C1": png()}, {"category": "nut"}, 400, "category nut: not loaded of bolt"),
        ({"C1": png()}, {"camera": "C1"}, 400, "field camera: a text; send the image of a view as a file"),
        ({"C1": png()}, {"sample": "x" * 300}, 400, "the multipart body can't be read: Part exceeded"),
        ({"C1": b"GIF89a no image"}, {}, 422, "view C1: not an image in JPEG, PNG"),
        ({"C1": png(seed=0)[:-500]}, {}, 422, "view C1: damaged PNG image"),
        ({"C1": b""}, {}, 422, "view C1: an empty file; leave the field out"),
        ({"C1": png(size=(100, 51))}, {}, 413, "view C1: 100 x 51 pixels; at most 5000 are taken"),
        ({"C1": b"\0" * 200_001}, {}, 413, "the images of the part have more than 200000 bytes in all"),
        ({"C1": b"\0" * 2_000_000}, {}, 413, "the images of the part have more than 200000 bytes in all"),
    ],
)
def test_every_mistake_is_one_error_in_json_and_one_line(server, caplog, images, texts, status, words):
    if images:
        answer = post(server, images, **texts)
    else:
        answer = requests.post(
            f"{server}/parts", files={key: (None, own) for key, own in texts.items()}, timeout=30
        )
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error
    assert "\n" not in error
    assert f"refused ({status}): {error}" in caplog.messages


def test_a_view_that_comes_twice_and_a_body_of_another_kind_are_refused(server):
    twice = [("C1", ("a.png", png())), ("C1", ("b.png", png()))]
    answer = requests.post(f"{server}/parts", files=twice, timeout=30)
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "field C1: is there twice; send one file for each view"},
    )
    answer = requests.post(f"{server}/parts", json={"C1": "/etc/passwd"}, timeout=30)
    assert answer.status_code == 415
    assert "send multipart/form-data" in answer.json()["error"]
    broken = {"content-type": "multipart/form-data"}
    answer = requests.post(f"{server}/parts", data=b"--", headers=broken, timeout=30)
    assert answer.status_code == 400
    assert "Missing boundary" in answer.json()["error"]


def test_what_is_not_there_is_said_in_json(server):
    for address, status, words in (
        ("/parts", 405, "GET /parts: Method Not Allowed"),
        ("/etc/passwd", 404, "GET /etc/passwd: Not Found"),
        ("/parts/0123/C1.png", 404, "part 0123: not one of the last 2"),
    ):
        answer = requests.get(server + address, timeout=30)
        assert (answer.status_code, answer.json()["error"]) == (status, words)


def test_the_last_parts_are_kept_and_shown_and_names_of_clients_are_no_markup(server):
    answers = [post(server, five(), sample=f"<b>{number}").json() for number in range(3)]
    gone = requests.get(server + answers[0]["overlays"]["C1"], timeout=30)
    assert gone.status_code == 404
    unknown = answers[2]["overlays"]["C1"].replace("C1", "C7")
    assert (
        requests.get(server + unknown, timeout=30).json()["error"]
        == "view C7: the part has C1, C2, C3, C4, C5"
    )
    page = requests.get(server, timeout=30)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert re.findall(r"&lt;b&gt;(\d)", page.text) == ["2", "1"]
    assert "<b>" not in page.text
    shown = re.findall(r'src="([^"]+)"', page.text)
    assert shown == [*answers[2]["overlays"].values(), *answers[1]["overlays"].values()]


def test_health_names_what_is_loaded_and_prometheus_reads_the_numbers(server, inspector):
    from prometheus_client.parser import text_string_to_metric_families

    def numbers():
        text = requests.get(f"{server}/metrics", timeout=30).text
        families = text_string_to_metric_families(text)
        return {
            (one.name, *sorted(one.labels.values())): one.value for own in families for one in own.samples
        }

    health = requests.get(f"{server}/health", timeout=30).json()
    assert health == {
        "status": "ok",
        "model": inspector.digest,
        "categories": {"bolt": list(inspector.views())},
    }
    post(server, five(C3=png(seed=1)))
    before = numbers()
    score = post(server, five(C3=png(seed=1))).json()["score"]
    post(server, {"C1": b""})
    after = numbers()
    for key, more in (
        (("mvead_parts_total", "bolt", "fail"), 1),
        (("mvead_seconds_count",), 1),
        (("mvead_refused_total", "422"), before.get(("mvead_refused_total", "422")) and 1),
    ):
        if more is not None:
            assert after[key] == before[key] + more
    assert after["mvead_last_score", "bolt"] == score
    assert after["mvead_waiting",] == 0


def test_more_requests_than_may_wait_are_sent_away_and_the_others_are_answered(server, inspector):
    inspector.go.clear()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(post(server, five()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 10
    while "mvead_waiting 2.0" not in requests.get(f"{server}/metrics", timeout=30).text:
        assert time.monotonic() < until
    refused = post(server, five())
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"] == "2 requests are at work or wait; send again in a moment"
    inspector.go.set()
    for thread in threads:
        thread.join(20)
    assert [answer.status_code for answer in answers] == [200, 200]


def test_a_client_that_sends_nothing_more_loses_its_place(server):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /parts HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x"
        )
        client.settimeout(20)
        assert client.recv(4096).startswith(b"HTTP/1.1 408")
    assert post(server, five()).status_code == 200


def command(*words):
    return [sys.executable, str(ROOT / "scripts/serve.py"), *map(str, words)]


def test_the_command_serves_until_sigterm_and_says_what_is_wrong_in_one_line(workdir, server):
    used = server.rpartition(":")[2]
    for words, expected in (
        (
            ["--workdir", workdir, "--port", used],
            f"error: --host 127.0.0.1 --port {used}: Address already in use",
        ),
        (["--workdir", workdir, "--port", "99999"], "error: --port=99999: must be 0 to 65535"),
        (["--workdir", workdir, "--most-megapixels", "81"], "error: --most-megapixels=81: must be 1 to 80"),
        (["--workdir", workdir.parent, "--port", "0"], f"error: {workdir.parent}/config.json: no such file"),
    ):
        done = subprocess.run(command(*words), capture_output=True, text=True, timeout=180)
        assert done.returncode == 2
        assert done.stderr.startswith(expected)
        assert done.stderr.count("\n") == 1
    log = workdir.parent / "log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        process = subprocess.Popen(command("--workdir", workdir, "--port", 0), stderr=file, env=environment)
    try:
        until = time.monotonic() + 180
        while not (address := re.search(r"serving at (\S+)/", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.1)
        assert post(address[1], five(), sample="a").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    finally:
        process.kill()
    assert "bolt a: " in log.read_text()
    assert "Traceback" not in log.read_text()
