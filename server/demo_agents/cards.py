"""Agent cards: one description, served in the form of the dialect the agent speaks."""

from __future__ import annotations

from typing import Any

from a2a.compat.v0_3.conversions import to_compat_agent_card
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill

from server.demo_agents.agents import DemoAgent

_PROTOCOL_VERSION = {"0.3": "0.3.0", "1.0": "1.0"}


def card_of(name: str, row: DemoAgent, url: str) -> AgentCard:
    """The card of the agent `name`, reachable at `url`."""
    interface = AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version=_PROTOCOL_VERSION[row.dialect])
    return AgentCard(
        name=f"{name} agent",
        description=row.about,
        version="1.0.0",
        supported_interfaces=[interface],
        capabilities=AgentCapabilities(streaming=True, push_notifications=False),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain", "application/json"],
        skills=[_skill(intent, name) for intent in row.intents],
    )


def served_form(card: AgentCard, row: DemoAgent) -> dict[str, Any]:
    """The card as JSON. A 0.3 agent serves the 0.3 form alone: a merged card would look like both."""
    if row.dialect == "0.3":
        return to_compat_agent_card(card).model_dump(mode="json", by_alias=True, exclude_none=True)
    return agent_card_to_dict(card)


def _skill(intent: str, name: str) -> AgentSkill:
    words = intent.replace("_", " ")
    return AgentSkill(id=intent, name=words, description=f"Answers the intent {intent}.", tags=[name])
