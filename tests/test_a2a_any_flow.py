"""Any flow called as an A2A agent: its inputs come as a data part, as metadata, or as the words themselves."""

from typing import Any

import pytest

from tests.a2a_client import Client, RpcError, state_of
from tests.conftest import Service, StartService

DIGEST = """
flow: digest
inputs: [article, limit]
agents: {worker: {url: "${TEXT_PROCESSOR_AGENT_URL:-http://text-processor-agent:8015}"}}
stages:
  shorten:
    agent: worker
    input: {text: article, task_type: "'refine'", max_words: limit}
    repeat: {until: answer.data.words <= limit, at_most: 9}
    output: {text: short}
"""
ARTICLE = "It rained. The river rose. The town was flooded in the night."


@pytest.fixture(scope="module")
def service(start_for_module: StartService, tmp_path_factory: pytest.TempPathFactory) -> Service:
    file = tmp_path_factory.mktemp("flows") / "digest.yaml"
    file.write_text(DIGEST)
    return start_for_module(checkpointer="memory", flows=(str(file), "sequential", "map_reduce"))


def read(service: Service, context: str) -> dict[str, Any]:
    told: dict[str, Any] = service.http.get(f"/executions/{context}").raise_for_status().json()
    return told


@pytest.mark.parametrize("way", ["a data part", "metadata"])
def test_inputs_come_with_the_message(service: Service, way: str) -> None:
    client, inputs = Client(service.http, path="/a2a/digest"), {"article": ARTICLE, "limit": 6}
    told = (
        client.send(parts=[{"data": inputs}])
        if way == "a data part"
        else client.send("Shorten it", metadata={"input": inputs})
    )

    execution = read(service, told["contextId"])

    assert (state_of(told), execution["status"]) == ("completed", "completed")
    assert execution["output_data"]["short"] == "It rained. The river rose."


def test_inputs_that_are_missing_are_named(service: Service) -> None:
    with pytest.raises(RpcError, match="flow 'digest' begins with its inputs; missing: limit") as refused:
        Client(service.http, path="/a2a/digest").send(parts=[{"data": {"article": ARTICLE}}])

    assert refused.value.facts["missing"] == '["limit"]'
