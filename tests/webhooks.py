"""Clients of A2A that want to be notified: their webhooks, and their configurations in either version."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.a2a_client import Client, Json
from tests.replicas import in_short
from tests.rough_agents import RoughAgent, Seen

_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Webhook:
    """Where a client is notified, and of what it was."""

    heard: RoughAgent
    url: str

    @property
    def seen(self) -> list[Seen]:
        return self.heard.seen

    @property
    def told(self) -> list[Json]:
        return [json.loads(seen.body) for seen in self.seen]

    def until(self, last: str) -> list[str]:
        """Wait until it is told this, and return in short what it was told."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while last not in (told := list(map(in_short, self.told))):
            assert time.monotonic() < deadline, told
            time.sleep(0.01)
        return told


@dataclass(frozen=True)
class Configs:
    """A client's notification configurations: sent and read as its version does, shown as 1.0 lays them out."""

    client: Client

    def create(self, task: str, url: str, **config: Any) -> Json:
        """Keep one; `config` as for `written`."""
        sent = written(self.client, url, **config)
        params = {"taskId": task, **({"pushNotificationConfig": sent} if self._is_old else sent)}
        return self._shown(self._call("set" if self._is_old else "Create", params))

    def get(self, task: str, name: str | None) -> Json:
        return self._shown(self._call("Get", self._named(task, name)))

    def list(self, task: str, **page: Any) -> list[Json]:
        found = self._call("List", {**self._named(task, None), **page})
        return [self._shown(one) for one in (found if self._is_old else found.get("configs", []))]

    def delete(self, task: str, name: str) -> Any:
        return self._call("Delete", self._named(task, name))

    @property
    def _is_old(self) -> bool:
        return self.client.version == "0.3"

    def _named(self, task: str, name: str | None) -> Json:
        of_task, of_config = ("id", "pushNotificationConfigId") if self._is_old else ("taskId", "id")
        return {of_task: task, **({of_config: name} if name else {})}

    def _call(self, verb: str, params: Json) -> Any:
        plural = "s" if verb == "List" else ""
        new = f"{verb}TaskPushNotificationConfig{plural}"
        return self.client.call(f"tasks/pushNotificationConfig/{verb.lower()}" if self._is_old else new, params)

    def _shown(self, config: Json) -> Json:
        return {"taskId": config["taskId"], **config["pushNotificationConfig"]} if self._is_old else config


def written(client: Client, url: str, *, bearer: str | None = None, **config: Any) -> Json:
    """Return a configuration as the client's version writes it, with a bearer token if it is to be sent one."""
    if bearer is not None:
        scheme: Json = {"scheme": "Bearer"} if client.version == "1.0" else {"schemes": ["Bearer"]}
        config["authentication"] = {**scheme, "credentials": bearer}
    return {"url": url, **config}


def wanting(client: Client, url: str, **config: Any) -> Json:
    """Return what a message is sent with (see `Client.params`) by a client that wants to be notified of its task."""
    name = "taskPushNotificationConfig" if client.version == "1.0" else "pushNotificationConfig"
    return {name: written(client, url, **config)}


Listen = Callable[..., Webhook]
"""Opens a webhook that answers so; 204 if it is not said how."""
