"""A service on loopback answers those who call it by a name of this machine, not a page whose name leads there."""

import socket

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.a2a_client import Client
from tests.conftest import Service, StartService

PATHS = ("/health", "/session/CALL-1", "/.well-known/agent-card.json", "/docs")


@pytest.fixture(scope="module")
def service(start_for_module: StartService) -> Service:
    return start_for_module(checkpointer="memory")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.7", "[", ""])
def test_a_name_that_only_leads_here_is_refused(service: Service, host: str, path: str) -> None:
    answer = service.http.get(path, headers={"Host": host})

    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert answer.json()["type"] == "foreign-host"
    assert "localhost" in answer.json()["detail"]
    assert "set FLOWS_PUBLIC_URL" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000"])
def test_a_name_of_this_machine_is_answered(service: Service, host: str) -> None:
    assert service.http.get("/health", headers={"Host": host}).status_code == 200


def test_no_turn_is_taken_for_a_page_that_made_itself_local(service: Service) -> None:
    page = {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}
    client = Client(service.http)

    answer = service.http.post("/a2a/call", json=client.params("Hello"), headers={**page, "A2A-Version": "1.0"})
    with pytest.raises(InvalidStatus) as refused:
        connect("ws://evil.example:8000/ws/CALL-1", sock=a_connection(service), origin=Origin(page["Origin"]))

    assert (answer.status_code, refused.value.response.status_code) == (403, 403)
    assert client.list()["totalSize"] == 0


def test_the_public_name_is_answered(start: StartService) -> None:
    service = start(checkpointer="memory", public_url="https://Flows.example/desk")

    assert service.http.get("/health", headers={"Host": "flows.example"}).status_code == 200
    assert service.http.get("/health", headers={"Host": "flows.example:8443"}).status_code == 200
    assert service.http.get("/health").status_code == 200
    assert service.http.get("/health", headers={"Host": "evil.example"}).status_code == 403


def test_a_service_for_others_is_called_as_they_like(start: StartService) -> None:
    service = start(checkpointer="memory", host="0.0.0.0")

    assert service.http.get("/health", headers={"Host": "anything.example"}).status_code == 200


def a_connection(service: Service) -> socket.socket:
    """Where the name of the page leads by now."""
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))
