"""The one tree of everything that can go wrong while reaching an agent; `kind` is what clients see as `type`."""

from typing import ClassVar


class AgentError(Exception):
    """An agent did not give a usable answer.

    Attributes:
        agent: the agent's name.
        retryable: whether the same message may succeed later.
        kind: a stable name for machines.
    """

    kind: ClassVar[str] = "agent_error"
    retryable: ClassVar[bool] = True

    def __init__(self, agent: str, message: str) -> None:
        super().__init__(message)
        self.agent = agent


class Unsendable(AgentError):
    """The message cannot be written as JSON (half a surrogate pair, a number beyond 64 bits): nothing was sent."""

    kind = "unsendable"
    retryable = False

    def __init__(self, agent: str, what: str) -> None:
        super().__init__(agent, f"the message to agent {agent!r} cannot be written as JSON: {what}")


class Unreachable(AgentError):
    """No connection was made: the message was certainly not delivered."""

    kind = "unreachable"


class TimedOut(AgentError):
    """No answer within the attempt's time; whether the message arrived is not known."""

    kind = "timeout"


class Disconnected(AgentError):
    """The connection broke after the message was sent; whether it was acted on is not known."""

    kind = "disconnected"


class HttpFailed(AgentError):
    """The agent's server answered with an HTTP error."""

    kind = "http_error"

    def __init__(self, agent: str, status: int) -> None:
        super().__init__(agent, f"agent {agent!r} answered HTTP {status}")
        self.status = status
        self.retryable = status >= 500 or status in (408, 429)  # type: ignore[misc]


class RpcFailed(AgentError):
    """The agent answered with a JSON-RPC error."""

    kind = "rpc_error"
    retryable = False

    def __init__(self, agent: str, code: int, reason: str) -> None:
        super().__init__(agent, f"agent {agent!r} refused the message: {reason} (JSON-RPC error {code})")
        self.code = code


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
