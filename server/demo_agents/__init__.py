"""Ten small but real A2A agents, so that the five stages of a call have someone to call."""

import os

# a2a-sdk reads this once, on import, and has no other switch; its spans cost a fifth of every answer.
os.environ.setdefault("OTEL_INSTRUMENTATION_A2A_SDK_ENABLED", "false")

from server.demo_agents.agents import AGENTS, DemoAgent
from server.demo_agents.hosting import UnknownAgent, build_app, serve, variables
from server.listening import PortInUse

__all__ = ["AGENTS", "DemoAgent", "PortInUse", "UnknownAgent", "build_app", "serve", "variables"]
