"""Reaching remote agents: transport only. What an answer means for the call is the stage node's business."""

from nodes.remote.caller import Caller, open_client
from nodes.remote.errors import AgentError

__all__ = ["AgentError", "Caller", "open_client"]
