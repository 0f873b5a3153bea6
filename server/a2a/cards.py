"""Agent cards: a flow described as an agent, in the form of either version of A2A.

Each version gets a card of its own: a card that declares both becomes, in `a2a-sdk`, a mixture that strict readers
of 1.0 refuse.
"""

import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from a2a.compat.v0_3.conversions import to_compat_agent_card
from a2a.types import AgentCapabilities, AgentCard, AgentExtension, AgentInterface, AgentProvider, AgentSkill
from google.protobuf.json_format import MessageToDict

from graph.flow import Flow
from nodes.spec import Stage

Version = Literal["1.0", "0.3"]

FLOW_EXTENSION = "urn:orchestrator-flows:flow:1"
"""Names what the extended card says of the flow."""

_PROVIDER = "Orchestrator Flows"
_PROTOCOL_1_0 = "1.0"
_PROTOCOL_0_3 = "0.3.0"
# What else agents take and give is theirs to say; files of any kind pass through us unchanged.
_MODES = ("text/plain", "application/json", "application/octet-stream")
_EXAMPLES = 3
_KEPT_FORMS = 64


@dataclass(frozen=True, eq=False)
class Cards:
    """The cards of one flow, wherever it is reached."""

    flow: Flow
    version: str
    """The version of this software, which the cards show as the agent's."""
    public_url: str | None = None
    """Where clients reach the service; None leaves it to what each request says."""
    default_version: Version = "1.0"
    """Which card those get who do not say what they speak."""
    rest: bool = False
    """Whether HTTP+JSON is offered too."""
    since: float = field(default_factory=time.time)
    """When they became what they are, in seconds since 1970."""

    def card(self, base_url: str) -> AgentCard:
        """Return the public card of the flow that is served below `base_url`."""
        return card_of(self.flow, base_url, version=self.version, rest=self.rest)

    def extended(self, base_url: str) -> AgentCard:
        """Return the extended card; there is none of 0.3, which wants it shown to authenticated clients only."""
        return extended(self.card(base_url), self.flow)

    def document(self, base_url: str, version: Version) -> dict[str, Any]:
        """Return the public card as JSON."""
        return _document(self, base_url, version)


@lru_cache(maxsize=_KEPT_FORMS)
def _document(cards: Cards, base_url: str, version: Version) -> dict[str, Any]:
    return as_1_0(cards.card(base_url)) if version == "1.0" else as_0_3(cards.card(base_url))


def endpoint_of(flow: Flow, base_url: str) -> str:
    """Return the address at which the flow speaks JSON-RPC."""
    return f"{base_url}/a2a/{flow.flow}"


def card_of(flow: Flow, base_url: str, *, version: str, rest: bool = False) -> AgentCard:
    """Return the 1.0 card of a flow.

    Args:
        flow: what is served.
        base_url: where the service is reached, without a slash at the end.
        version: the version of this software.
        rest: whether HTTP+JSON is served too.
    """
    url = endpoint_of(flow, base_url)
    return AgentCard(
        name=_words(flow.flow),
        description=flow.about or f"The flow {flow.flow}.",
        version=version,
        provider=AgentProvider(organization=_PROVIDER, url=base_url),
        documentation_url=f"{base_url}/docs",
        supported_interfaces=[
            _interface(url, "JSONRPC"),
            *([_interface(f"{url}/rest", "HTTP+JSON")] if rest else []),
        ],
        capabilities=AgentCapabilities(streaming=True, push_notifications=True, extended_agent_card=True),
        default_input_modes=_MODES,
        default_output_modes=_MODES,
        skills=_skills(flow),
    )


def extended(card: AgentCard, flow: Flow) -> AgentCard:
    """Return the card with what an operator wants to know of the flow; where its agents live is not in it."""
    extension = AgentExtension(uri=FLOW_EXTENSION, description="The flow behind this agent, stage by stage.")
    extension.params.update(
        {
            "flow": flow.flow,
            "version": flow.version,
            "digest": flow.digest,
            "waits_for": flow.waits_for,
            "stages": [_shown(name, number, flow.stages[name]) for name, number in flow.stage_ids().items()],
            **({"fallback": flow.fallback} if flow.fallback else {}),
        }
    )
    shown = AgentCard()
    shown.CopyFrom(card)
    shown.capabilities.extensions.append(extension)
    return shown


def as_1_0(card: AgentCard) -> dict[str, Any]:
    """Return the card as version 1.0 writes it, and nothing that 1.0 does not know."""
    document: dict[str, Any] = MessageToDict(card)
    return document


def as_0_3(card: AgentCard) -> dict[str, Any]:
    """Return the card as version 0.3 writes it; its extended card needs authentication, so none is declared."""
    old = AgentCard()
    old.CopyFrom(card)
    del old.supported_interfaces[1:]
    old.supported_interfaces[0].protocol_version = _PROTOCOL_0_3
    old.capabilities.ClearField("extended_agent_card")
    return to_compat_agent_card(old).model_dump(mode="json", by_alias=True, exclude_none=True)


def _interface(url: str, binding: str) -> AgentInterface:
    return AgentInterface(url=url, protocol_binding=binding, protocol_version=_PROTOCOL_1_0)


def _skills(flow: Flow) -> list[AgentSkill]:
    """Return a skill for each intent; a flow that knows no intents has one, which is the flow itself."""
    places = _intents(flow)
    if not places:
        return [_skill_of_whole(flow)]
    return [_skill(flow, intent, stages) for intent, stages in places.items()]


def _intents(flow: Flow) -> dict[str, list[str]]:
    """Return each intent with the names of the stages where it is legal."""
    places: dict[str, list[str]] = {}
    for name, stage in flow.stages.items():
        for intent in stage.intents:
            places.setdefault(intent, []).append(name)
    return places


def _skill(flow: Flow, intent: str, stages: list[str]) -> AgentSkill:
    agents = [flow.stages[name].intents[intent] for name in stages]
    return AgentSkill(
        id=intent,
        name=_words(intent),
        description=" ".join(_described(name, flow.stages[name]) for name in stages),
        tags=list(dict.fromkeys([*stages, *agents])),
        examples=_examples(flow, intent, stages),
    )


def _skill_of_whole(flow: Flow) -> AgentSkill:
    name, stage = next(iter(flow.stages.items()))
    only = len(flow.stages) == 1
    agents = [stage.agent for stage in flow.stages.values() if stage.agent]
    return AgentSkill(
        id=name if only else flow.flow,
        name=_words(name if only else flow.flow),
        description=(stage.about if only else "") or flow.about or f"The flow {flow.flow}.",
        tags=list(dict.fromkeys([*flow.stages, *agents])),
    )


def _described(name: str, stage: Stage) -> str:
    return f"At the stage {_words(name)}: {stage.about}" if stage.about else f"At the stage {_words(name)}."


def _examples(flow: Flow, intent: str, stages: list[str]) -> list[str]:
    """Return a few triggers of the intent that no other intent of its stages has: a plain "yes" shows nothing."""
    rivals = {
        trigger
        for name in stages
        for other in flow.stages[name].intents
        if other != intent
        for trigger in flow.triggers.get(other, [])
    }
    own = [trigger for trigger in flow.triggers.get(intent, []) if trigger not in rivals and "#" not in trigger]
    whole = [trigger for trigger in own if "*" not in trigger]
    stems = [stem for trigger in own if (stem := trigger.removesuffix("*").strip()) and "*" not in stem]
    return whole[:_EXAMPLES] or stems[:1]


def _shown(name: str, number: int, stage: Stage) -> dict[str, Any]:
    answered = {"intents": dict(stage.intents)} if stage.intents else {"agent": stage.agent}
    return {"id": number, "name": name, "about": stage.about, "effect": stage.effect, **answered}


def _words(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")
