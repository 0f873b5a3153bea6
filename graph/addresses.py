"""What must hold of the addresses of a flow's agents: each rule yields what is wrong, where, and the remedy."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from graph.flow import Flow
from nodes.spec import Agent, AgentVersion, public_url

Found = Iterator[tuple[tuple[str | int, ...], str]]


def addresses(flow: Flow) -> Found:
    """Yield every address that cannot be one."""
    for name, agent in flow.agents.items():
        for where, url in _urls(agent):
            if wrong := _wrong_with(url):  # the address itself may hold a password and is not shown
                told = f"an address of agent {name!r}" if len(where) > 1 else f"the address of agent {name!r}"
                yield ("agents", name, *where), f"{told} {wrong}; write it as http://host:port"


def _urls(one: Agent | AgentVersion) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield every address, and where it stands."""
    if one.url is not None:
        yield ("url",), one.url
    for index, url in enumerate(one.endpoints):
        yield ("endpoints", index), url
    for name, version in one.versions.items() if isinstance(one, Agent) else ():
        for where, url in _urls(version):
            yield ("versions", name, *where), url


def endpoints_told(flow: Flow) -> Found:
    """Yield every agent that does not say, once, where it answers."""
    for name, agent in flow.agents.items():
        said = [key for key in ("url", "endpoints", "versions") if getattr(agent, key)]
        if len(said) > 1:
            told = " and ".join(f"`{key}`" for key in said)
            yield ("agents", name, said[1]), f"agent {name!r} says {told}; keep the one that says where it answers"
        if not said and agent.type is None:
            remedy = "give it a `url`, or a `type` under which its instances register themselves"
            yield ("agents", name), f"agent {name!r} does not say where it answers; {remedy}"
        for version, spec in agent.versions.items():
            yield from _endpoints_of_version(("agents", name, "versions", version), spec)
        if agent.versions and not any(agent.weights.values()):
            yield ("agents", name, "versions"), f"all versions of agent {name!r} have the weight 0; give one a weight"
        if doubled := _doubled(agent):
            yield ("agents", name), f"agent {name!r} has {public_url(doubled)!r} twice; remove one"


def _endpoints_of_version(where: tuple[str, ...], version: AgentVersion) -> Found:
    if version.url and version.endpoints:
        yield where, f"version {where[-1]!r} says `url` and `endpoints`; keep the one that says where it answers"
    if not version.urls and version.weight:
        remedy = "give it a `url` or `endpoints`, or the weight 0"
        yield where, f"version {where[-1]!r} does not say where it answers; {remedy}"


def _doubled(agent: Agent) -> str | None:
    urls = [url for url, _ in agent.endpoints_and_versions]
    return next((url for index, url in enumerate(urls) if url in urls[:index]), None)


def _wrong_with(url: str) -> str | None:
    parts = urlsplit(url)
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        return "holds a space or a control character"
    if parts.query or parts.fragment:
        return "holds a ? or #, but the agent's card must lie below it"
    try:
        return None if parts.port != 0 else "has the port 0"
    except ValueError:
        return "has no port from 1 to 65535"
