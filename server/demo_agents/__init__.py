"""Seventeen small but real A2A agents, so that the flows we ship have someone to call."""

from server.demo_agents.agents import AGENTS, DemoAgent
from server.demo_agents.hosting import UnknownAgent, build_app, serve, variables
from server.listening import PortInUse

__all__ = ["AGENTS", "DemoAgent", "PortInUse", "UnknownAgent", "build_app", "serve", "variables"]
