"""The one tree of everything that can go wrong while reaching an agent; `kind` is what clients see as `type`."""

from typing import Self


class AgentError(Exception):
    """An agent did not give a usable answer.

    Attributes:
        agent: the agent's name.
        kind: a stable name for machines.
        retryable: whether the same message may succeed later.
        acted: False if the agent certainly did not act on the message, None if that is not known.
        retry_after: seconds for which the agent asked to be left alone; None if it did not.
    """

    kind: str = "agent_error"
    retryable: bool = True
    acted: bool | None = None
    retry_after: float | None = None

    def __init__(self, agent: str, message: str) -> None:
        super().__init__(message)
        self.agent = agent

    def unknown(self) -> Self:
        """Return the same error as one that does not tell whether the agent acted."""
        told = type(self).__new__(type(self), *self.args)
        told.__dict__ |= self.__dict__ | {"acted": None}
        return told


class Unsendable(AgentError):
    """The message cannot be written as JSON (half a surrogate pair, a number beyond 64 bits): nothing was sent."""

    kind = "unsendable"
    retryable = False
    acted = False

    def __init__(self, agent: str, what: str) -> None:
        super().__init__(agent, f"the message to agent {agent!r} cannot be written as JSON: {what}")


class Unreachable(AgentError):
    """No connection was made: the message was certainly not delivered."""

    kind = "unreachable"
    acted = False


class HeldUp(AgentError):
    """A write was not sent: since it was written down, this process stood still for so long that another may have
    taken over its turn."""

    kind = "held_up"
    acted = False

    def __init__(self, agent: str) -> None:
        super().__init__(agent, f"the message to agent {agent!r} was not sent: the service was held up for too long")


class TimedOut(AgentError):
    """No answer within the attempt's time; whether the message arrived is not known.

    Attributes:
        task_id: the agent's task, if it had begun one and was still at work.
    """

    kind = "timeout"

    def __init__(self, agent: str, message: str, task_id: str | None = None) -> None:
        super().__init__(agent, message)
        self.task_id = task_id


class NoTimeLeft(TimedOut):
    """The turn's time was up before the agent could be asked."""

    acted = False


class Disconnected(AgentError):
    """The connection broke after the message was sent; whether it was acted on is not known."""

    kind = "disconnected"


class HttpFailed(AgentError):
    """The agent's server answered with an HTTP error."""

    kind = "http_error"

    def __init__(self, agent: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(agent, f"agent {agent!r} answered HTTP {status}")
        self.status = status
        self.retry_after = retry_after
        self.retryable = status >= 500 or status in (408, 429)
        self.acted = None if status >= 500 or status == 408 else False


class RpcFailed(AgentError):
    """The agent answered with a JSON-RPC error. Its own words may hold anything, so only the code is passed on.

    Attributes:
        code: the JSON-RPC or A2A error code.
    """

    kind = "rpc_error"
    retryable = False

    def __init__(self, agent: str, code: int) -> None:
        meaning = _MEANING.get(code, "an error of its own")
        super().__init__(agent, f"agent {agent!r} refused the message: {meaning} (JSON-RPC error {code})")
        self.code = code
        self.acted = False if code in _MEANING and code != _INTERNAL else None


_INTERNAL = -32603
_MEANING = {
    -32700: "it could not be parsed",
    -32600: "it is not a valid request",
    -32601: "the agent does not know the method",
    -32602: "its parameters are not valid",
    _INTERNAL: "internal error of the agent",
    -32001: "the agent does not know the task",
    -32004: "the agent does not support this operation",
    -32005: "the agent does not take this type of content",
    -32009: "the agent does not speak this version of A2A",
}


class BadReply(AgentError):
    """The answer is not A2A: not JSON, another request's id, or parts that cannot be read."""

    kind = "bad_reply"
    retryable = False

    def __init__(self, agent: str, what: str) -> None:
        super().__init__(agent, f"agent {agent!r} gave no usable answer: {what}")


class ReplyTooLarge(AgentError):
    """The answer is longer than we are willing to keep."""

    kind = "reply_too_large"
    retryable = False

    def __init__(self, agent: str, limit: int) -> None:
        super().__init__(agent, f"agent {agent!r} sent more than the {limit:,} bytes a reply may have")
