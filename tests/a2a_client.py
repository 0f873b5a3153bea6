"""A small raw A2A client of both versions: it sends what it is told to, and shows what came back as it came.

Parts are written as A2A 1.0 does, and sent as the version does; a part with a `kind` is sent as it is.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import httpx

Json = dict[str, Any]

_METHODS_03 = {
    "SendMessage": "message/send",
    "SendStreamingMessage": "message/stream",
    "GetTask": "tasks/get",
    "CancelTask": "tasks/cancel",
    "SubscribeToTask": "tasks/resubscribe",
}
_FILES_03 = {"raw": "bytes", "url": "uri", "filename": "name", "mediaType": "mimeType"}
_KINDS_10 = {"statusUpdate": "status-update", "artifactUpdate": "artifact-update"}


class RpcError(Exception):
    """The service answered with a JSON-RPC error.

    Attributes:
        code: of the error.
        message: what it says.
        data: what else it tells; None if nothing.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: Any = error.get("data")

    @property
    def facts(self) -> Json:
        """What the error tells beside its words, in either version."""
        if isinstance(self.data, list):
            return {**self.data[0]["metadata"], "reason": self.data[0]["reason"]}
        return dict(self.data or {})


class Client:
    """Talks to a service.

    Args:
        http: reaches it.
        version: of A2A.
        path: of the flow.
    """

    def __init__(self, http: httpx.Client, version: Literal["1.0", "0.3"] = "1.0", path: str = "/a2a/call") -> None:
        self.http = http
        self.version = version
        self.path = path

    def rpc(self, method: str, params: Any = None, headers: Mapping[str, str] | None = None) -> Json:
        """Call a method, named as in 1.0 or as in the client's version, and return the whole response."""
        response = self.http.post(self.path, json=self._request(method, params), headers=self._headers(headers))
        assert response.status_code == 200, response.text
        answer: Json = response.json()
        assert answer["jsonrpc"] == "2.0"
        return answer

    def call(self, method: str, params: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Call a method and return its result; raises `RpcError`."""
        answer = self.rpc(method, params, headers)
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]

    def send(self, text: str | None = None, *, headers: Mapping[str, str] | None = None, **more: Any) -> Json:
        """Send a message (see `params`) and return the task or message that answers; raises `RpcError`."""
        return opened(self.call("SendMessage", self.params(text, **more), headers))[1]

    def stream(
        self, text: str | None = None, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Iterator[Json]:
        """Send a message (see `params`) and yield the result of each event as it comes; raises `RpcError`."""
        return self.events("SendStreamingMessage", self.params(text, **more), headers)

    def get(self, task: str, **more: Any) -> Json:
        """Return a task."""
        found: Json = self.call("GetTask", {"id": task, **more})
        return found

    def cancel(self, task: str) -> Json:
        """Cancel a task and return it."""
        canceled: Json = self.call("CancelTask", {"id": task})
        return canceled

    def list(self, **filters: Any) -> Json:
        """Return a page of tasks; 1.0 only."""
        page: Json = self.call("ListTasks", filters)
        return page

    def subscribe(self, task: str) -> Iterator[Json]:
        """Yield what happens in a task from now on."""
        return self.events("SubscribeToTask", {"id": task})

    def params(
        self,
        text: str | None = None,
        *,
        context: str | None = None,
        task: str | None = None,
        message_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        parts: Sequence[Mapping[str, Any]] | None = None,
        request_metadata: Mapping[str, Any] | None = None,
        message: Mapping[str, Any] | None = None,
        **configuration: Any,
    ) -> Json:
        """Return the parameters that send a message.

        Args:
            text: of its one text part, the first if there are `parts` too.
            context: the call.
            task: the one it continues.
            message_id: a fresh one if left out.
            metadata: of the message.
            parts: as 1.0 writes them.
            request_metadata: of the request.
            message: fields of the message to add or replace.
            configuration: by the names of 1.0; `returnImmediately` is written as the version does.
        """
        said: Json = {
            "messageId": message_id or uuid.uuid4().hex,
            "role": "ROLE_USER" if self.version == "1.0" else "user",
            "parts": [self._part(part) for part in ([{"text": text}] if text is not None else []) + [*(parts or ())]],
            **({"contextId": context} if context is not None else {}),
            **({"taskId": task} if task is not None else {}),
            **({"metadata": metadata} if metadata is not None else {}),
            **(message or {}),
        }
        if self.version == "0.3" and "returnImmediately" in configuration:
            configuration["blocking"] = not configuration.pop("returnImmediately")
        return {
            "message": said,
            **({"configuration": configuration} if configuration else {}),
            **({"metadata": request_metadata} if request_metadata else {}),
        }

    def events(self, method: str, params: Any, headers: Mapping[str, str] | None = None) -> Iterator[Json]:
        """Call a method that streams, and yield the result of each event as it comes; raises `RpcError`."""
        request = self._request(method, params)
        with self.http.stream("POST", self.path, json=request, headers=self._headers(headers)) as response:
            if not response.headers["content-type"].startswith("text/event-stream"):
                response.read()
                raise RpcError(response.json()["error"])
            for line in response.iter_lines():
                if line.startswith("data:"):
                    answer = json.loads(line.removeprefix("data:"))
                    if "error" in answer:
                        raise RpcError(answer["error"])
                    yield answer["result"]

    def _request(self, method: str, params: Any) -> Json:
        named = _METHODS_03.get(method, method) if self.version == "0.3" else method
        return {"jsonrpc": "2.0", "id": 1, "method": named, "params": {} if params is None else params}

    def _headers(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return {"A2A-Version": self.version, **(more or {})}

    def _part(self, part: Mapping[str, Any]) -> Json:
        return part_03(part) if self.version == "0.3" and "kind" not in part else dict(part)


def part_03(part: Mapping[str, Any]) -> Json:
    """Write a part of 1.0 as 0.3 does."""
    metadata = {"metadata": part["metadata"]} if "metadata" in part else {}
    if "text" in part or "data" in part:
        kind = "text" if "text" in part else "data"
        return {"kind": kind, kind: part[kind], **metadata}
    return {"kind": "file", "file": {_FILES_03[key]: part[key] for key in _FILES_03 if key in part}, **metadata}


def opened(result: Json) -> tuple[str, Json]:
    """Return what a result or an event holds, by its 0.3 kind, in either version."""
    if "kind" in result:
        return result["kind"], result
    ((name, body),) = result.items()
    return _KINDS_10.get(name, name), body


def state_of(task: Json) -> str:
    """Return the state of a task or of a status update, as 0.3 writes it."""
    state: str = task["status"]["state"]
    return state.removeprefix("TASK_STATE_").lower().replace("_", "-")


def words_of(message: Json | None) -> str:
    """Return the text of a message or an artifact."""
    return "\n".join(part["text"] for part in (message or {}).get("parts", []) if "text" in part)


def answer_of(task: Json) -> str:
    """Return what a task says last: its status message, or else its last artifact but the summary."""
    if words := words_of(task["status"].get("message")):
        return words
    said = [artifact for artifact in task.get("artifacts", []) if artifact["artifactId"] != "summary"]
    return words_of(said[-1] if said else None)


def roles_and_words(task: Json) -> list[tuple[str, str]]:
    """Return the history of a task: who said what."""
    history = task.get("history", [])
    return [(said["role"].removeprefix("ROLE_").lower(), words_of(said)) for said in history]
