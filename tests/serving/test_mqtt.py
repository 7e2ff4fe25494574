"""The lines of a watcher as a subscriber of a real broker gets them.

Needs mosquitto, of the path or named by MOSQUITTO (apt-get install mosquitto); .ci/run installs it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mvead_jax.runtime.errors import UserError
from mvead_jax.serving.watch.journal import Journal
from mvead_jax.serving.watch.mqtt import PASSWORD, SENT, Broker, Publisher, published
from mvead_jax.serving.watch.watcher import JOURNAL

client = pytest.importorskip("paho.mqtt.client", reason="the extra mqtt: pip install '.[mqtt]'")
from paho.mqtt.enums import CallbackAPIVersion  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mosquitto():
    """The path of the broker's program. Debian keeps it out of the path of ordinary users."""
    path = os.environ.get("MOSQUITTO") or shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if not path:
        pytest.skip("no mosquitto: install it (apt-get install mosquitto) or name one by MOSQUITTO")
    return path


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def broker(mosquitto, port, folder, *lines):
    """A broker at a port for the length of a block."""
    settings = folder / f"mosquitto{port}.conf"
    settings.write_text(
        "\n".join([f"listener {port} 127.0.0.1", *(lines or ["allow_anonymous true"])]) + "\n"
    )
    process = subprocess.Popen([mosquitto, "-c", settings], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while True:
            assert process.poll() is None, "mosquitto has ended"
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def subscriber(port, topic, user=None):
    """A list that fills with the messages of a topic."""
    got, ready = [], threading.Event()
    own = client.Client(CallbackAPIVersion.VERSION2)
    if user:
        own.username_pw_set(*user)
    own.on_connect = lambda one, *_: one.subscribe(topic, 1)
    own.on_subscribe = lambda *_: ready.set()
    own.on_message = lambda _one, _data, message: got.append(json.loads(message.payload))
    own.connect("127.0.0.1", port)
    own.loop_start()
    try:
        assert ready.wait(20)
        yield got
    finally:
        own.disconnect()
        own.loop_stop()


def wait(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def numbers(got):
    return [line["number"] for line in got]


def test_each_line_comes_once_and_in_order_over_restarts_of_the_watcher(mosquitto, port, tmp_path):
    journal = Journal(tmp_path / JOURNAL)
    address = f"mqtt://127.0.0.1:{port}/parts/Prüfung%202"
    with broker(mosquitto, port, tmp_path), subscriber(port, "parts/Prüfung 2") as got:
        written = [journal.append({"text": "ä"})]
        with published(address, journal._path):
            written.append(journal.append({"text": "b"}))
            wait(lambda: len(got) == 2)
        written.append(journal.append({"text": "while it was away"}))
        with published(address, journal._path):
            written.append(journal.append({"text": "d"}))
        wait(lambda: len(got) >= 4)
        assert got == written
    size = journal._path.stat().st_size
    assert json.loads((tmp_path / SENT).read_text()) == {"offset": size, "number": 4}


def test_lines_wait_for_a_broker_that_is_away_and_none_is_lost(mosquitto, port, tmp_path, caplog):
    journal = Journal(tmp_path / JOURNAL)
    with published(f"mqtt://127.0.0.1:{port}/parts", journal._path):
        journal.append({})
        wait(lambda: any("no connection; lines wait in" in one for one in caplog.messages))
        with broker(mosquitto, port, tmp_path), subscriber(port, "parts") as got:
            wait(lambda: numbers(got) == [1])
        journal.append({})
        with broker(mosquitto, port, tmp_path), subscriber(port, "parts") as got:
            wait(lambda: numbers(got)[-1:] == [2])
    journal.append({})
    with published(f"mqtt://127.0.0.1:{port}/parts", journal._path):
        pass
    assert "1 lines not sent; they are when the watcher starts again" in caplog.text


def test_what_is_left_at_the_end_waits_for_a_connection_that_is_being_made(mosquitto, port, tmp_path):
    journal = Journal(tmp_path / JOURNAL)
    journal.append({})
    publisher = Publisher(Broker.of(f"mqtt://127.0.0.1:{port}/parts"), journal._path)
    with ThreadPoolExecutor(1) as pool:
        publisher.start()
        stopping = pool.submit(publisher.stop)
        with broker(mosquitto, port, tmp_path):
            stopping.result()
    assert json.loads((tmp_path / SENT).read_text())["number"] == 1


def test_a_user_gives_a_password_and_a_wrong_one_is_said(mosquitto, port, tmp_path, caplog, monkeypatch):
    passwords, journal = tmp_path / "passwords", Journal(tmp_path / JOURNAL)
    passwords.touch(0o600)
    tool = shutil.which("mosquitto_passwd")
    assert tool, "no mosquitto_passwd: it comes with mosquitto"
    subprocess.run([tool, "-b", passwords, "line 1", "secret"], check=True, capture_output=True)
    settings = ("allow_anonymous false", f"password_file {passwords}", f"user {_user()}")
    with broker(mosquitto, port, tmp_path, *settings):
        journal.append({})
        monkeypatch.setenv(PASSWORD, "wrong")
        with published(f"mqtt://line%201@127.0.0.1:{port}/parts", journal._path):
            wait(lambda: any("the broker refuses" in one for one in caplog.messages))
        monkeypatch.setenv(PASSWORD, "secret")
        address = f"mqtt://line%201@127.0.0.1:{port}/parts"
        with subscriber(port, "parts", ("line 1", "secret")) as got, published(address, journal._path):
            wait(lambda: numbers(got) == [1])


def _user():
    return "root" if os.getuid() == 0 else "nobody"  # of another user than root the broker keeps its own


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("broker", "no address of a broker; give mqtt://"),
        ("http://broker/parts", "no address of a broker"),
        ("mqtt://broker", "no address of a broker"),
        ("mqtt://broker/parts?x=1", "no address of a broker"),
        ("mqtt://broker:x/parts", "Port could not be cast"),
        ("mqtt://broker/parts/%23", "the topic 'parts/#' is none to publish to"),
        ("mqtt://line:secret@broker/parts", f"put it into {PASSWORD}"),
    ],
)
def test_an_address_that_is_none_is_one_line(address, words):
    with pytest.raises(UserError) as caught:
        Broker.of(address)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_ports_and_a_damaged_note_of_what_was_sent(tmp_path):
    assert Broker.of("mqtt://broker/a/b") == Broker("broker", 1883, "a/b")
    assert Broker.of("mqtts://u@broker/a") == Broker("broker", 8883, "a", True, "u")
    (tmp_path / SENT).write_text('{"offset": "x"}')
    with pytest.raises(UserError, match="delete it to send all lines again"):
        Publisher(Broker.of("mqtt://127.0.0.1/a"), tmp_path / JOURNAL)


def test_the_option_belongs_to_watch(tmp_path):
    words = ["--workdir", tmp_path, "--mqtt", "mqtt://broker/parts"]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/score.py", *words], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (2, "error: --mqtt: belongs to --watch\n")
