"""Push notifications over real sockets: webhooks that fail, lie or are slow, and addresses that none may reach."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from a2a.compat.v0_3 import types as a2a_0_3
from a2a.server.context import ServerCallContext
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import InvalidParamsError, TaskNotFoundError
from a2a.utils.proto_utils import Event
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from graph.store.opening import open_store
from server.a2a.push import MAX_PER_CALL, MAX_PER_TASK, CallPushConfigs, PushConfig, Version, version_of
from server.a2a.push_delivery import Patience, PushSender
from server.a2a.push_guard import PushGuard, look_up
from tests.rough_agents import RoughAgent, answers, hangs, in_turn, pours, rough_agent, sends

LOOPBACK = PushGuard(["127.0.0.0/8"])
QUICK = Patience(attempts=3, attempt_timeout=1.0, first_wait=0.01, longest_wait=0.05)
FINE = answers("", 204)
TASK = "call-1.1.0123456789abcdef"

IN_1_0 = ServerCallContext(state={"method": "CreateTaskPushNotificationConfig", "headers": {"a2a-version": "1.0"}})
IN_0_3 = ServerCallContext(state={"method": "tasks/pushNotificationConfig/set", "headers": {}})


def _config(url: str, id: str = "mine", task_id: str = TASK, **more: Any) -> pb.TaskPushNotificationConfig:  # noqa: A002
    return pb.TaskPushNotificationConfig(id=id, task_id=task_id, url=url, **more)


def _push(url: str, *, version: Version = "1.0", **more: Any) -> PushConfig:
    return PushConfig(_config(f"{url}/hook", **more), version)


def _task(state: pb.TaskState = pb.TASK_STATE_COMPLETED, text: str = "done") -> pb.Task:
    artifact = pb.Artifact(artifact_id="1-a", parts=[pb.Part(text=text)])
    return pb.Task(id=TASK, context_id="call-1", status=pb.TaskStatus(state=state), artifacts=[artifact])


def _says(text: str) -> pb.TaskArtifactUpdateEvent:
    artifact = pb.Artifact(artifact_id="1-a", parts=[pb.Part(text=text)])
    return pb.TaskArtifactUpdateEvent(task_id=TASK, context_id="call-1", artifact=artifact)


def _becomes(state: pb.TaskState) -> pb.TaskStatusUpdateEvent:
    return pb.TaskStatusUpdateEvent(task_id=TASK, context_id="call-1", status=pb.TaskStatus(state=state))


def _told(webhook: RoughAgent) -> list[dict[str, Any]]:
    return [json.loads(seen.body) for seen in webhook.seen]


async def _until(webhook: RoughAgent, count: int) -> None:
    async with asyncio.timeout(10):
        while len(webhook.seen) < count:  # noqa: ASYNC110  (a webhook has nothing to wait for)
            await asyncio.sleep(0.005)


OpenConfigs = Callable[[], AbstractAsyncContextManager[CallPushConfigs]]


@pytest.fixture(params=["memory", "core"])
def open_configs(request: pytest.FixtureRequest, tmp_path: Path) -> OpenConfigs:
    """The configurations of `TASK`'s call, whose first turn is open, in each kind of store."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[CallPushConfigs]:
        async with open_store(choice=request.param, data_dir=tmp_path) as store:
            await store.calls.begin("call-1")
            yield CallPushConfigs(store.calls, lambda task: task.split(".")[0] or None)

    return opened


class TestConfigurations:
    def test_they_are_kept_by_id_with_the_version_that_made_them(self, open_configs: OpenConfigs) -> None:
        async def story() -> None:
            async with open_configs() as configs:
                auth = pb.AuthenticationInfo(scheme="Bearer", credentials="secret")
                mine = _config("https://example.com/a", token="t", authentication=auth)
                assert await configs.set_info(TASK, mine, IN_1_0) == mine
                unnamed = await configs.set_info(
                    TASK, pb.TaskPushNotificationConfig(url="http://example.com/b"), IN_0_3
                )
                assert (unnamed.id, unnamed.task_id) == ("default", TASK)

                assert await configs.get_info(TASK, IN_1_0) == [mine, unnamed]
                assert [kept.version for kept in await configs.of_task(TASK)] == ["1.0", "0.3"]

                again = await configs.set_info(TASK, _config("https://example.com/c"), IN_1_0)
                assert await configs.current(PushConfig(mine, "1.0")) == PushConfig(again, "1.0")

                await configs.delete_info(TASK, IN_1_0, "mine")
                await configs.delete_info(TASK, IN_1_0, "mine")
                assert await configs.get_info(TASK, IN_1_0) == [unnamed]
                assert await configs.current(PushConfig(mine, "1.0")) is None
                await configs.delete_info(TASK, IN_1_0)
                assert await configs.get_info(TASK, IN_1_0) == []

        asyncio.run(story())

    def test_two_tasks_of_a_call_do_not_share_them(self, open_configs: OpenConfigs) -> None:
        async def story() -> None:
            later = "call-1.2.fedcba9876543210"
            async with open_configs() as configs:
                first = await configs.set_info(TASK, _config("https://example.com/1"), IN_1_0)
                second = await configs.set_info(later, _config("https://example.com/2"), IN_1_0)
                assert await configs.get_info(TASK, IN_1_0) == [first]
                assert await configs.get_info(later, IN_1_0) == [second]
                await configs.delete_info(later, IN_1_0, "mine")
                assert await configs.get_info(TASK, IN_1_0) == [first]

        asyncio.run(story())

    def test_a_task_has_ten_at_most_and_a_call_twenty(self, open_configs: OpenConfigs) -> None:
        async def story() -> None:
            tasks = [f"call-1.{run}.0123456789abcdef" for run in range(1, 5)]
            async with open_configs() as configs:
                for task in tasks:
                    for number in range(MAX_PER_TASK):
                        await configs.set_info(task, _config("http://example.com/", str(number)), IN_1_0)
                with pytest.raises(InvalidParamsError, match="at most 10"):
                    await configs.set_info(tasks[-1], _config("http://example.com/", "one too many"), IN_1_0)
                await configs.set_info(tasks[-1], _config("http://example.com/changed", "0"), IN_1_0)

                held = [len(await configs.get_info(task, IN_1_0)) for task in tasks]
                assert held[-1] == MAX_PER_TASK
                assert sum(held) == MAX_PER_CALL

        asyncio.run(story())

    def test_a_call_that_does_not_exist_has_none(self, open_configs: OpenConfigs) -> None:
        async def story() -> None:
            async with open_configs() as configs:
                for task in ("other.1.0123456789abcdef", ""):
                    with pytest.raises(TaskNotFoundError):
                        await configs.set_info(task, _config("https://example.com/"), IN_1_0)
                    assert await configs.get_info(task, IN_1_0) == []
                    await configs.delete_info(task, IN_1_0, "mine")

        asyncio.run(story())

    @pytest.mark.parametrize(
        "broken",
        [
            {"url": "https://example.com/" + "a" * 2000},
            {"token": "t" * 1001},
            {"token": "one\r\nX-Two: two"},
            {"token": "naïve"},
            {"id": "i" * 501},
            {"authentication": pb.AuthenticationInfo(scheme="Bearer\n", credentials="c")},
            {"authentication": pb.AuthenticationInfo(scheme="Bearer", credentials="c" * 4001)},
        ],
    )
    def test_what_is_too_long_or_no_header_is_refused(
        self, open_configs: OpenConfigs, broken: dict[str, Any]
    ) -> None:
        async def story() -> None:
            async with open_configs() as configs:
                with pytest.raises(InvalidParamsError):
                    await configs.set_info(TASK, _config(**{"url": "https://example.com/", **broken}), IN_1_0)
                assert await configs.get_info(TASK, IN_1_0) == []

        asyncio.run(story())

    @pytest.mark.parametrize(
        ("state", "version"),
        [
            ({"method": "SendMessage", "headers": {"a2a-version": "1.0"}}, "1.0"),
            ({"method": "message/send", "headers": {"a2a-version": "0.3"}}, "0.3"),
            ({"headers": {"a2a-version": "1.0"}}, "1.0"),
            ({"headers": {"A2A-Version": "1.0.1"}}, "1.0"),
            ({"headers": {"a2a-version": "0.3.0"}}, "0.3"),
            ({"headers": {}}, "0.3"),
            ({}, "0.3"),
        ],
    )
    def test_the_request_tells_the_version(self, state: dict[str, Any], version: Version) -> None:
        assert version_of(ServerCallContext(state=state)) == version


class TestDelivery:
    def test_a_webhook_gets_each_event_in_order_with_its_token_and_credentials(self) -> None:
        async def story() -> None:
            auth = pb.AuthenticationInfo(scheme="Bearer", credentials="secret")
            async with rough_agent(FINE) as webhook, PushSender(LOOPBACK) as sender:
                push = _push(webhook.url, token="token-1", authentication=auth)
                sender.notify([push], _task(), [_says("a"), _says("b"), _becomes(pb.TASK_STATE_COMPLETED)])
                await sender.aclose()

            assert [next(iter(told)) for told in _told(webhook)] == [
                "artifactUpdate",
                "artifactUpdate",
                "statusUpdate",
            ]
            assert [told["artifactUpdate"]["artifact"]["parts"] for told in _told(webhook)[:2]] == [
                [{"text": "a"}],
                [{"text": "b"}],
            ]
            sent = webhook.seen[0]
            assert (sent.method, sent.target) == ("POST", "/hook")
            assert sent.headers["authorization"] == "Bearer secret"
            assert sent.headers["x-a2a-notification-token"] == "token-1"
            assert sent.headers["content-type"] == "application/json"

        asyncio.run(story())

    def test_a_client_of_0_3_gets_the_task_as_0_3_writes_it(self) -> None:
        async def story() -> None:
            async with rough_agent(FINE) as webhook, PushSender(LOOPBACK) as sender:
                sender.notify([_push(webhook.url, version="0.3")], _task(), [_says("a"), _says("b")])
                await sender.aclose()

            (told,) = _told(webhook)
            assert told["kind"] == "task"
            assert told["status"]["state"] == "completed"
            assert told["artifacts"][0]["parts"] == [{"kind": "text", "text": "done"}]
            a2a_0_3.Task.model_validate(told)

        asyncio.run(story())

    def test_without_events_the_task_itself_is_sent(self) -> None:
        async def story() -> None:
            async with rough_agent(FINE) as webhook, PushSender(LOOPBACK) as sender:
                sender.notify([_push(webhook.url)], _task())
                await sender.aclose()

            (told,) = _told(webhook)
            assert told["task"]["status"]["state"] == "TASK_STATE_COMPLETED"

        asyncio.run(story())

    def test_a_configuration_deleted_meanwhile_is_sent_nothing_and_a_changed_one_goes_where_it_says_now(self) -> None:
        async def story() -> None:
            async with rough_agent(FINE) as old, rough_agent(FINE) as new:
                kept = {"moved": _push(new.url, id="moved")}

                async def current(push: PushConfig) -> PushConfig | None:
                    return kept.get(push.config.id)

                async with PushSender(LOOPBACK, current=current) as sender:
                    sender.notify([_push(old.url, id="deleted"), _push(old.url, id="moved")], _task())

            assert (len(old.seen), len(new.seen)) == (0, 1)

        asyncio.run(story())


class TestRetry:
    def test_a_webhook_that_is_down_for_a_while_is_told_later_and_in_order(self) -> None:
        async def story() -> None:
            flaky = in_turn(answers("", 503), sends(b""), FINE)
            async with rough_agent(flaky) as webhook, PushSender(LOOPBACK, patience=QUICK) as sender:
                sender.notify([_push(webhook.url)], _task(), [_says("a"), _says("b")])
                await sender.aclose()

            texts = [told["artifactUpdate"]["artifact"]["parts"][0]["text"] for told in _told(webhook)]
            assert texts == ["a", "a", "a", "b"]

        asyncio.run(story())

    @pytest.mark.parametrize("as_date", [False, True])
    def test_it_waits_as_long_as_the_webhook_says(self, as_date: bool) -> None:
        soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True) if as_date else "0"
        slow_to_retry = Patience(attempts=3, first_wait=30.0)

        async def story() -> None:
            flaky = in_turn(answers("", 429, retry_after=soon), answers("", 503, retry_after=soon), FINE)
            async with rough_agent(flaky) as webhook, PushSender(LOOPBACK, patience=slow_to_retry) as sender:
                sender.notify([_push(webhook.url)], _task())
                await sender.aclose()
            assert len(webhook.seen) == 3

        asyncio.run(story())

    def test_a_webhook_that_wants_to_be_left_alone_for_an_hour_is(self) -> None:
        async def story() -> None:
            async with (
                rough_agent(answers("", 503, retry_after="3600")) as webhook,
                PushSender(LOOPBACK, patience=QUICK) as sender,
            ):
                sender.notify([_push(webhook.url)], _task())
                await sender.aclose()
            assert len(webhook.seen) == 1

        asyncio.run(story())

    @pytest.mark.parametrize("status", [400, 401, 404, 410, 302])
    def test_what_the_webhook_refuses_is_not_sent_again(self, status: int) -> None:
        async def story() -> None:
            async with rough_agent(answers("", status)) as webhook, PushSender(LOOPBACK, patience=QUICK) as sender:
                sender.notify([_push(webhook.url)], _task())
                await sender.aclose()
            assert len(webhook.seen) == 1

        asyncio.run(story())

    def test_a_dead_webhook_is_given_up_and_of_the_rest_hears_only_how_the_turn_ended(self) -> None:
        async def story() -> None:
            async with rough_agent(answers("", 500)) as webhook, PushSender(LOOPBACK, patience=QUICK) as sender:
                events: list[Event] = [_says("a"), *[_says("b")] * 5, _becomes(pb.TASK_STATE_INPUT_REQUIRED)]
                sender.notify([_push(webhook.url)], _task(), events)
                await sender.aclose()
            kinds = [next(iter(told)) for told in _told(webhook)]
            assert kinds == ["artifactUpdate"] * 3 + ["statusUpdate"] * 3

        asyncio.run(story())

    def test_one_webhook_does_not_hold_up_another(self) -> None:
        async def story() -> None:
            async with (
                rough_agent(hangs) as stuck,
                rough_agent(FINE) as webhook,
                PushSender(LOOPBACK, grace=0.0) as sender,
            ):
                sender.notify([_push(stuck.url, id="stuck"), _push(webhook.url)], _task())
                await _until(webhook, 1)

        asyncio.run(story())

    def test_a_webhook_that_answers_without_end_is_not_read(self) -> None:
        async def story() -> None:
            async with rough_agent(pours(500_000_000)) as webhook, PushSender(LOOPBACK, patience=QUICK) as sender:
                sender.notify([_push(webhook.url)], _task(), [_says("a"), _says("b")])
                await sender.aclose()
            assert len(webhook.seen) == 2
            assert webhook.written < 50_000_000  # what sockets hold

        asyncio.run(story())

    def test_the_log_names_the_host_and_no_secret(self) -> None:
        async def story() -> None:
            async with rough_agent(answers("", 500)) as webhook, PushSender(LOOPBACK, patience=QUICK) as sender:
                auth = pb.AuthenticationInfo(scheme="Bearer", credentials="hush")
                sender.notify([_push(webhook.url, token="hush", authentication=auth)], _task(text="hush"))
                await sender.aclose()

        with capture_logs() as lines:
            asyncio.run(story())

        (gave_up,) = [line for line in lines if line["event"] == "push notification not delivered"]
        assert gave_up["reason"] == "127.0.0.1: HTTP 500"
        assert "hush" not in repr(lines)
        assert "/hook" not in repr(lines)


class TestBounds:
    def test_when_too_many_wait_the_oldest_go_but_not_how_the_turn_ended(self) -> None:
        async def story() -> None:
            async with rough_agent(FINE) as webhook, PushSender(LOOPBACK, limit=3) as sender:
                push = _push(webhook.url)
                sender.notify([push], _task(), [_becomes(pb.TASK_STATE_COMPLETED)])
                sender.notify([push], _task(), [_says(str(number)) for number in range(100)])
                await sender.aclose()
            first, *rest = _told(webhook)
            assert first["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
            assert [told["artifactUpdate"]["artifact"]["parts"][0]["text"] for told in rest] == ["98", "99"]

        asyncio.run(story())

    def test_long_notifications_are_bounded_in_bytes(self) -> None:
        async def story() -> None:
            async with rough_agent(FINE) as webhook, PushSender(LOOPBACK, limit_bytes=250_000) as sender:
                sender.notify([_push(webhook.url)], _task(), [_says(letter * 100_000) for letter in "abcd"])
                await sender.aclose()
            assert [told["artifactUpdate"]["artifact"]["parts"][0]["text"][0] for told in _told(webhook)] == [
                "c",
                "d",
            ]

        asyncio.run(story())

    def test_closing_waits_a_little_and_no_longer(self) -> None:
        async def story() -> None:
            async with rough_agent(hangs) as webhook, PushSender(LOOPBACK, grace=0.1) as sender:
                sender.notify([_push(webhook.url)], _task(), [_says("a"), _says("b")])
                await asyncio.wait_for(sender.aclose(), 5)
                sender.notify([_push(webhook.url)], _task())
            assert len(webhook.seen) == 1

        asyncio.run(story())


REFUSED = (
    "http://localhost/",
    "http://LOCALHOST./",
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://127.0.0.1./",
    "http://127%2E0.0.1/",
    "http://①②⑦.0.0.1/",
    "http://127。0。0。1/",
    "http://0.0.0.0/",
    "http://0/",
    "http://10.0.0.1/",
    "http://172.31.255.255/",
    "https://192.168.1.1:8443/hook",
    "http://100.64.0.1/",
    "http://100.100.100.200/",
    "http://169.254.169.254/latest/meta-data/",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::127.0.0.1]/",
    "http://[2002:7f00:1::]/",
    "http://[64:ff9b::10.0.0.1]/",
    "http://[64:ff9b:1::1]/",
    "http://[2001::1]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fec0::1]/",
    "http://[fd00:ec2::254]/",
    "http://[ff0e::1]/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "//example.com/",
    "example.com",
    "",
    "http://",
    "http:///hook",
    "http://user@example.com/",
    "http://user:password@example.com/",
    "http://:password@example.com/",
    "http://example.com:0/",
    "http://example.com:99999/",
    "http://exa mple.com/",
    "http://example..com/",
    "http://example.com\\@127.0.0.1/",
    "http://[::1/",
    f"http://example.com/{'a' * 2000}",
)

PUBLIC = (
    "http://93.184.215.14/hook",
    "https://93.184.215.14:8443/hook?a=b#c",
    "http://[2606:4700::1111]/",
    "http://[::ffff:93.184.215.14]/",
    "http://[64:ff9b::93.184.215.14]/",
    "http://[2002:5db8:d70e::]/",
)


def refusal(guard: PushGuard, url: str) -> str:
    """Check that the guard does not let the URL pass, and return why."""
    with pytest.raises(InvalidParamsError, match="notifications cannot be sent to this URL: ") as refused:
        asyncio.run(guard.allowed(url))
    return str(refused.value)


class TestGuard:
    @pytest.mark.parametrize("url", REFUSED)
    def test_refuses(self, url: str) -> None:
        assert refusal(PushGuard(), url)

    @pytest.mark.parametrize("url", PUBLIC)
    def test_allows_what_is_public(self, url: str) -> None:
        assert asyncio.run(PushGuard().allowed(url)) is True

    def test_one_private_address_among_public_ones_is_enough_to_refuse(self) -> None:
        async def both(host: str, port: int) -> list[str]:
            return ["93.184.215.14", "10.0.0.7"]

        said = refusal(PushGuard(resolve=both), "http://example.com/")

        assert "the address of 'example.com' is not public; only the service's FLOWS_PUSH_ALLOW" in said
        assert "10.0.0.7" not in said  # names of the inside are nobody's business

    def test_a_host_that_cannot_be_found_now_may_be_named(self) -> None:
        assert asyncio.run(PushGuard().allowed("https://no-such-host.invalid/hook")) is True

    @pytest.mark.parametrize(
        ("allow", "url"),
        [
            ("localhost", "http://localhost:8000/"),
            ("LocalHost.", "http://localhost./"),
            ("127.0.0.0/8", "http://localhost/"),
            ("127.0.0.1", "http://127.0.0.1/"),
            ("10.1.0.0/16", "http://[::ffff:10.1.2.3]/"),
            ("::1", "http://[::1]/"),
            (" fd00::/8 ", "http://[fd00::7]/"),
        ],
    )
    def test_what_the_setting_names_is_allowed(self, allow: str, url: str) -> None:
        async def here(host: str, port: int) -> list[str]:
            return ["127.0.0.1"] if host.startswith("localhost") else await look_up(host, port)

        assert asyncio.run(PushGuard([allow], resolve=here).allowed(url)) is True

    @pytest.mark.parametrize(
        ("allow", "url"),
        [
            ("localhost", "http://127.0.0.1/"),
            ("10.1.0.0/16", "http://10.2.0.1/"),
            ("example.com", "http://sub.example.com/"),
            ("example.com", "http://sub.localhost/"),
        ],
    )
    def test_and_nothing_else(self, allow: str, url: str) -> None:
        async def here(host: str, port: int) -> list[str]:
            return ["127.0.0.1"] if host == "sub.example.com" else await look_up(host, port)

        assert refusal(PushGuard([allow], resolve=here), url)

    @pytest.mark.parametrize(
        "entry", ["", "10.0.0.1/8", "10.0.0/33", "*.example.com", "http://localhost", "127.1", "a b"]
    )
    def test_a_setting_that_makes_no_sense_is_named(self, entry: str) -> None:
        with pytest.raises(ValueError, match="FLOWS_PUSH_ALLOW") as caught:
            PushGuard(["localhost", entry])
        assert repr(entry) in str(caught.value)

    @given(st.text(max_size=60).map("http://".__add__) | st.text(max_size=60))
    def test_it_answers_for_any_text(self, url: str) -> None:
        async def nowhere(host: str, port: int) -> list[str]:
            raise OSError("no such host")

        with suppress(InvalidParamsError):
            assert asyncio.run(PushGuard(resolve=nowhere).allowed(url))


class TestReachingWebhooks:
    def test_a_name_that_moves_to_loopback_after_the_check_is_not_reached(self) -> None:
        asked: list[str] = []

        async def rebinding(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["93.184.215.14"] if len(asked) == 1 else ["127.0.0.1"]

        async def story() -> None:
            guard = PushGuard(resolve=rebinding)
            async with rough_agent(FINE) as webhook, PushSender(guard, patience=QUICK) as sender:
                url = webhook.url.replace("127.0.0.1", "webhook.example.com")
                assert await guard.allowed(url)
                sender.notify([_push(url)], _task())
                await sender.aclose()
                assert asked == ["webhook.example.com"] * 2
                assert webhook.seen == []

        with capture_logs() as lines:
            asyncio.run(story())
        assert any("not public" in line.get("reason", "") for line in lines)

    def test_a_name_is_connected_to_at_the_address_that_was_checked(self) -> None:
        async def at_home(host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        async def story() -> None:
            guard = PushGuard(["webhook.example.com"], resolve=at_home)
            async with rough_agent(FINE) as webhook, PushSender(guard, patience=QUICK) as sender:
                sender.notify([_push(webhook.url.replace("127.0.0.1", "webhook.example.com"))], _task())
                await sender.aclose()
            (sent,) = webhook.seen
            assert sent.headers["host"].startswith("webhook.example.com:")

        asyncio.run(story())

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]", "127.1"])
    def test_a_configuration_that_should_not_be_there_is_not_followed(self, host: str) -> None:
        async def story() -> None:
            async with rough_agent(FINE) as webhook, PushSender(PushGuard(), patience=QUICK) as sender:
                sender.notify([_push(webhook.url.replace("127.0.0.1", host))], _task())
                await sender.aclose()
            assert webhook.seen == []

        asyncio.run(story())

    def test_a_redirect_is_not_followed(self) -> None:
        async def story() -> None:
            async with rough_agent(FINE) as inside:
                redirect = answers("", 307, location=f"{inside.url}/secrets")
                async with rough_agent(redirect) as webhook, PushSender(LOOPBACK, patience=QUICK) as sender:
                    sender.notify([_push(webhook.url)], _task())
                    await sender.aclose()
            assert (len(webhook.seen), inside.seen) == (1, [])

        asyncio.run(story())
