"""LangGraph's `AsyncRedisSaver`, which needs a Redis with JSON and Search (Redis 8, Redis Stack)."""

from langgraph.checkpoint.redis.aio import AsyncRedisSaver

from graph.store.stock import Turnwise


class TurnwiseRedisSaver(Turnwise, AsyncRedisSaver):  # type: ignore[misc]  # the stock aput takes one more
    """The stock Redis saver."""
