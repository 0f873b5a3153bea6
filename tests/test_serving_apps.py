"""Serving apps on sockets of our own: where nobody can listen, and how several apps close."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from server.listening import CannotListen, is_loopback, listen, serving, serving_all, url_at, url_of
from tests.puppet import Puppet


@pytest.mark.parametrize("host", ["192.0.2.1", "nosuch.invalid", "a" * 70, "127.0.0.1:8000"])
def test_a_host_that_is_not_this_machine_is_named_with_its_setting(host: str) -> None:
    with pytest.raises(CannotListen, match=f"{host!r}, port 0: .*; set FLOWS_HOST to an address of this machine"):
        listen("the service", host, 0, host_setting="FLOWS_HOST", port_setting="FLOWS_PORT")


def test_a_port_that_does_not_exist_is_named_with_its_setting() -> None:
    with pytest.raises(CannotListen, match=r"port 99999: .*; set FLOWS_PORT to another port"):
        listen("the service", "127.0.0.1", 99999, host_setting="FLOWS_HOST", port_setting="FLOWS_PORT")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("agent.example", "http://agent.example:1"),
    ],
)
def test_every_address_is_reached_at_one_that_a_client_can_use(host: str, url: str) -> None:
    assert url_at(host, 1) == url


def test_only_loopback_is_reached_by_this_machine_alone() -> None:
    hosts = ["127.0.0.1", "127.1.2.3", "::1", "localhost", "0.0.0.0", "", "::", "10.0.0.1", "flows.example"]

    assert [host for host in hosts if is_loopback(host)] == ["127.0.0.1", "127.1.2.3", "::1", "localhost"]


def test_several_apps_close_at_the_same_time() -> None:
    async def story() -> None:
        last_words = asyncio.Barrier(3)

        @asynccontextmanager
        async def waiting_for_the_others(app: Starlette) -> AsyncIterator[None]:
            yield
            await last_words.wait()

        served = [(Starlette(lifespan=waiting_for_the_others), listen("an app", "127.0.0.1", 0)) for _ in range(3)]
        async with asyncio.timeout(20), serving_all(served, grace=1):
            pass

    asyncio.run(story())


def test_an_error_does_not_wait_for_a_request_under_way() -> None:
    async def story() -> None:
        message = {"messageId": "m", "contextId": "c", "parts": [{"kind": "text", "text": "slow 60"}]}
        rpc = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {"message": message}}
        listener, puppet = listen("the puppet", "127.0.0.1", 0), Puppet()
        async with asyncio.timeout(20), httpx.AsyncClient() as client, serving(puppet.app, listener, grace=60):
            asking = asyncio.create_task(client.post(url_of(listener), json=rpc, timeout=60))
            while not puppet.messages:  # noqa: ASYNC110  (the puppet is heard of by its list alone)
                await asyncio.sleep(0)
            asking.cancel()
            raise InterruptedError

    with pytest.raises(InterruptedError):
        asyncio.run(story())


def test_clients_that_take_nothing_do_not_hold_up_the_end() -> None:
    async def pour() -> AsyncIterator[bytes]:
        while True:
            poured.set()
            await asyncio.sleep(0)
            yield b"x" * 1_000_000

    async def endless(request: Request) -> StreamingResponse:
        return StreamingResponse(pour())

    async def at_length(request: Request) -> Response:
        return Response(b"x" * 50_000_000)

    async def story() -> None:
        listener = listen("an app", "127.0.0.1", 0)
        app = Starlette(routes=[Route("/endless", endless), Route("/long", at_length)])
        with ExitStack() as stack:
            async with serving(app, listener, grace=60):
                for path in ("endless", "long"):
                    client = stack.enter_context(socket.create_connection(listener.getsockname()))
                    client.sendall(f"GET /{path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                await poured.wait()
                began = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - began < 20

    poured = asyncio.Event()
    asyncio.run(story())


def test_a_client_that_reads_slowly_is_waited_for() -> None:
    async def at_length(request: Request) -> Response:
        return Response(b"x" * 30_000_000)

    async def slowly(address: tuple[str, int]) -> int:
        reader, writer = await asyncio.open_connection(*address, limit=1_000)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        taken = len(await reader.read(1_000))
        begun.set()
        while piece := await reader.read(500_000):
            taken += len(piece)
            await asyncio.sleep(0.05)
        writer.close()
        return taken

    async def story() -> None:
        listener = listen("an app", "127.0.0.1", 0)
        async with serving(Starlette(routes=[Route("/", at_length)]), listener, grace=60):
            taking = asyncio.create_task(slowly(listener.getsockname()))
            await begun.wait()
        assert await taking > 30_000_000

    begun = asyncio.Event()
    asyncio.run(story())
