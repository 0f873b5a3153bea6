"""Sends notifications to the webhooks of A2A clients: in the background, in order for each, with retry, in bounds."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

import aiohttp
import httpx
import stamina
import structlog
from a2a.types.a2a_pb2 import Task
from a2a.utils.proto_utils import Event
from yarl import URL

from graph.store.errors import StoreError
from server.a2a.push import PushConfig, Version
from server.a2a.push_guard import CheckedResolver, PushGuard, PushRefused
from server.a2a.push_queue import Delivery, Key, Payload, Waiting, payloads

MAX_DELIVERIES = 1_000
MAX_DELIVERY_BYTES = 64_000_000

_CONNECTIONS, _CONNECTIONS_PER_HOST = 200, 20

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a webhook is tried. Times are seconds."""

    attempts: int = 5
    attempt_timeout: float = 10.0
    total: float = 60.0
    """Nothing is tried again after it, and a `Retry-After` beyond it is not waited for."""
    first_wait: float = 1.0
    longest_wait: float = 30.0


class _Undelivered(Exception):
    """An attempt failed; nothing in it is secret."""

    def __init__(self, reason: str, *, again: bool, after: float | None = None) -> None:
        super().__init__(reason)
        self.again = again
        self.after = after


class PushSender:
    """Notifies webhooks; open while it is entered.

    Args:
        guard: says which addresses may be reached.
        current: returns, just before each attempt, the notification's configuration as it is kept now, or None.
        patience: how long a webhook is tried.
        limit: how many notifications may wait; beyond it the oldest goes, the last word on a turn last of all.
        limit_bytes: how long they may be in all, bytes.
        grace: seconds that notifications get when the sender closes.
    """

    def __init__(
        self,
        guard: PushGuard,
        *,
        current: Callable[[PushConfig], Awaitable[PushConfig | None]] | None = None,
        patience: Patience | None = None,
        limit: int = MAX_DELIVERIES,
        limit_bytes: int = MAX_DELIVERY_BYTES,
        grace: float = 5.0,
    ) -> None:
        self._guard = guard
        self._current = current
        self._patience = patience or Patience()
        self._grace = grace
        self._waiting = Waiting(limit, limit_bytes)
        self._workers: dict[Key, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(self._guard),
            use_dns_cache=False,  # each connection is checked
            limit=_CONNECTIONS,
            limit_per_host=_CONNECTIONS_PER_HOST,
            ssl=httpx.create_ssl_context(trust_env=False),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self._patience.attempt_timeout),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give what waits a short grace, then drop it, and close the connections."""
        workers = list(self._workers.values())
        try:
            if workers and (await asyncio.wait(workers, timeout=self._grace))[1]:
                log.warning("push notifications dropped at the end", waiting=len(self._waiting))
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            session, self._session = self._session, None
            if session is not None:
                await session.close()

    def notify(self, configs: Iterable[PushConfig], task: Task, events: Sequence[Event] = ()) -> None:
        """Have webhooks told of a task, in the background.

        Args:
            configs: where, and in which version.
            task: as it is now; what 0.3 is sent.
            events: what happened, in order, each a notification in 1.0; the task itself if there are none.
        """
        said: dict[Version, list[Payload]] = {}
        for push in configs:
            if push.version not in said:
                said[push.version] = list(payloads(push.version, task, events))
            for payload in said[push.version]:
                self._enqueue(push, payload)

    def _enqueue(self, push: PushConfig, payload: Payload) -> None:
        if self._session is None:
            log.warning("push notification dropped: the sender is closed", task=push.config.task_id)
            return
        key = self._waiting.add(push, payload)
        if key not in self._workers:
            self._workers[key] = worker = asyncio.create_task(self._work(key))
            worker.add_done_callback(_log_failure)

    async def _work(self, key: Key) -> None:
        """Deliver what waits for one configuration, one after the other."""
        try:
            while (delivery := self._waiting.take(key)) is not None:
                await self._deliver(delivery)
        finally:
            del self._workers[key]

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._send_with_patience(delivery.push, delivery.payload)
        except (PushRefused, _Undelivered) as error:
            log.warning("push notification not delivered", task=delivery.push.config.task_id, reason=str(error))
            if isinstance(error, _Undelivered) and error.again:
                self._waiting.keep_last_word(delivery.key)  # or a dead webhook would be tried for hours

    async def _as_kept_now(self, push: PushConfig) -> PushConfig | None:
        try:
            return push if self._current is None else await self._current(push)
        except StoreError:
            return push  # a lost notification is worse than one too many

    async def _send_with_patience(self, push: PushConfig, payload: Payload) -> None:
        patience = self._patience
        async for attempt in stamina.retry_context(
            on=self._pause,
            attempts=patience.attempts,
            timeout=patience.total,
            wait_initial=patience.first_wait,
            wait_max=patience.longest_wait,
            wait_jitter=patience.first_wait,
            wait_exp_base=3,
        ):
            with attempt:
                now = await self._as_kept_now(push)
                if now is not None:
                    await self._send(self._guard.checked(now.config.url), _headers(now), payload.body)

    def _pause(self, error: Exception) -> bool | float:
        """Tell whether to try again, and after how long if the webhook said so."""
        if not isinstance(error, _Undelivered) or not error.again:
            return False
        if error.after is None:
            return True
        return error.after <= self._patience.total and error.after

    async def _send(self, url: URL, headers: dict[str, str], body: bytes) -> None:
        if self._session is None:
            raise _Undelivered("the sender is closed", again=False)
        host = url.host
        sending = self._session.post(url, data=body, headers=headers, allow_redirects=False)
        try:
            async with sending as response:  # of its body nothing is read
                status, after = response.status, _seconds(response.headers.get("Retry-After"))
        except aiohttp.InvalidURL as error:
            raise _Undelivered(f"{host}: not a URL that can be reached", again=False) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Undelivered(f"{host}: {type(error).__name__}", again=True) from error
        if not 200 <= status < 300:
            again = status >= 500 or status in (408, 429)
            raise _Undelivered(f"{host}: HTTP {status}", again=again, after=after)


def _headers(push: PushConfig) -> dict[str, str]:
    config, auth = push.config, push.config.authentication
    # A2A 4.3.3; its example in 6.6 has application/a2a+json, which common receivers do not read as JSON.
    headers = {"Content-Type": "application/json", "User-Agent": "orchestrator-flows"}
    if config.token:
        headers["X-A2A-Notification-Token"] = config.token
    if auth.scheme and auth.credentials:
        headers["Authorization"] = f"{auth.scheme} {auth.credentials}"
    return headers


def _seconds(retry_after: str | None) -> float | None:
    """Read a `Retry-After`: seconds, or a date (RFC 9110, 10.2.3); None for anything else."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        when = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _log_failure(worker: asyncio.Task[None]) -> None:
    if not worker.cancelled() and (error := worker.exception()) is not None:
        log.error("push worker failed", exc_info=error)
