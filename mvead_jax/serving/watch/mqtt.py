"""The lines of decisions.jsonl as messages to an MQTT broker: score.py --watch --mqtt.

A thread reads the journal and publishes each line, in order, with quality of service 1. What the broker has
acknowledged is kept in mqtt.json beside the journal, so a broker that is away, or a watcher that is started
again, loses no line; one that was sent while the acknowledgement got lost is sent again, with the same `number`.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, write_json

log = logging.getLogger("mvead_jax")

SENT = "mqtt.json"
PASSWORD = "MVEAD_MQTT_PASSWORD"
_FORM = "give mqtt://[user@]host[:port]/topic, or mqtts:// for TLS"
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_POLL_SECONDS = 0.2
_PATIENCE = 5.0  # seconds for an acknowledgement, and for what is left at the end


@dataclass(frozen=True)
class Broker:
    """Where messages go. user: None: no name is given."""

    host: str
    port: int
    topic: str
    tls: bool = False
    user: str | None = None

    @classmethod
    def of(cls, address: str) -> Broker:
        """Return what an address of the command line names, or raise a UserError."""
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError as error:
            raise UserError(f"--mqtt {address}: {error}; {_FORM}") from None
        topic = unquote(parts.path.removeprefix("/"))
        if parts.scheme not in _PORTS or not parts.hostname or not topic or parts.query or parts.fragment:
            raise UserError(f"--mqtt {address}: no address of a broker; {_FORM}")
        if set(topic) & set("+#\0") or len(topic.encode()) > 65535:
            raise UserError(f"--mqtt {address}: the topic {topic!r} is none to publish to (no + and #)")
        if parts.password is not None:
            raise UserError(f"--mqtt: a password in an address is seen by others; put it into {PASSWORD}")
        user = None if parts.username is None else unquote(parts.username)
        return cls(parts.hostname, port or _PORTS[parts.scheme], topic, parts.scheme == "mqtts", user)


class Publisher:
    """The thread that publishes the lines of a journal."""

    def __init__(self, broker: Broker, journal: Path):
        """
        Args:
          journal: decisions.jsonl, which may not exist yet.

        Raises:
          UserError: the extra `mqtt` is not installed, or mqtt.json is none of this program.
        """
        self._broker, self._journal, self._place = broker, journal, journal.with_name(SENT)
        self._client = self._connecting()
        self._pending, self._acknowledged, self._news = None, set(), threading.Condition()
        self._offset = 0
        if self._place.exists():
            sent = read_json(self._place, "what was sent of a journal")
            if not isinstance(sent, dict) or type(sent.get("offset")) is not int or sent["offset"] < 0:
                raise UserError(f"{self._place}: not of score.py --mqtt; delete it to send all lines again")
            self._offset = sent["offset"]
        self._ending, self._thread = threading.Event(), threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._client.connect_async(self._broker.host, self._broker.port)
        self._client.loop_start()
        self._thread.start()

    def stop(self) -> None:
        """Send what is left for a few seconds, and say how many lines stay behind."""
        self._ending.set()
        self._thread.join(2 * _PATIENCE)
        self._client.disconnect()
        self._client.loop_stop()
        if left := sum(1 for _ in self._lines()):
            log.warning("%s: %d lines not sent; they are when the watcher starts again", self._journal, left)

    def _connecting(self) -> Any:
        """Return the client, which connects again whenever it loses its broker."""
        try:
            from paho.mqtt.client import Client, MQTTv311
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise UserError("--mqtt needs paho-mqtt: pip install '.[mqtt]' in the checkout") from None
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv311)
        client.reconnect_delay_set(1, 30)
        if self._broker.user is not None:
            client.username_pw_set(self._broker.user, os.environ.get(PASSWORD))
        if self._broker.tls:
            client.tls_set()
        where = f"{self._broker.host}:{self._broker.port}"

        def connected(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                log.warning("--mqtt %s: the broker refuses: %s", where, reason)
            else:
                log.info("--mqtt %s: connected; decisions go to %s", where, self._broker.topic)
                with self._news:
                    self._news.notify()

        def failed(_client: Any, _data: Any) -> None:
            log.warning("--mqtt %s: no connection; lines wait in %s, tried again", where, self._journal)

        def acknowledged(_client: Any, _data: Any, number: int, _reason: Any, _properties: Any) -> None:
            with self._news:
                self._acknowledged.add(number)
                self._news.notify()

        client.on_connect, client.on_connect_fail, client.on_publish = connected, failed, acknowledged
        return client

    def _run(self) -> None:
        while True:
            ending = self._ending.is_set()
            try:
                for line in self._lines():
                    if not self._publish(line):
                        break
            except (
                OSError,
                ValueError,
                KeyError,
                UserError,
            ) as error:  # the journal or mqtt.json; tried again
                log.warning("--mqtt: %s", error)
            if ending:
                return
            self._ending.wait(_POLL_SECONDS)

    def _lines(self) -> Iterator[bytes]:
        """Yield the whole lines that have not been sent."""
        if not self._journal.exists():
            return
        with self._journal.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if line.endswith(b"\n"):
                    yield line

    def _has_connection(self) -> bool:
        """Return whether there is a connection; at the end one that is only being made is waited for."""
        with self._news:
            return self._news.wait_for(self._client.is_connected, _PATIENCE if self._ending.is_set() else 0)

    def _publish(self, line: bytes) -> bool:
        """Return whether the broker has the line."""
        if self._pending is None:
            if not self._has_connection():
                return False
            self._pending = self._client.publish(self._broker.topic, line.rstrip(b"\n"), qos=1).mid
        with self._news:  # a message that waits is sent again by the client whenever it connects
            if not self._news.wait_for(lambda: self._pending in self._acknowledged, _PATIENCE):
                return False
            self._pending = None
            self._acknowledged.clear()
        self._offset += len(line)
        write_json(self._place, {"offset": self._offset, "number": json.loads(line)["number"]})
        return True


@contextmanager
def published(address: str | None, journal: Path) -> Iterator[None]:
    """While the block runs, publish the lines of a journal; without an address nothing."""
    if address is None:
        yield
        return
    publisher = Publisher(Broker.of(address), journal)
    publisher.start()
    try:
        yield
    finally:
        publisher.stop()
