"""What docs/deploy.md hands out fits together, and fits the service: image, compose file, balancer, manifests."""

import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from graph.loader import load_flow, shipped_flows
from server.archiving import _CLOSING_SECONDS
from server.cli import app
from server.commands.serving import grace_of
from server.commands.warning import unknown_settings
from server.demo_agents import AGENTS
from server.event_stream import HEARTBEAT_SECONDS
from server.listening import listen, url_of
from server.settings import Settings, read_settings
from tests.conftest import StartService

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
BALANCER = (DEPLOY / "haproxy.cfg").read_text()
MANIFESTS = [
    document
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
]
DOCUMENT = (ROOT / "docs" / "deploy.md").read_text()
GUARDED = [name for name in COMPOSE if name != "redis"]
"""The services of the compose file that need no rights at all."""


def manifest(kind: str) -> Any:
    """The one manifest of a kind."""
    (found,) = (document for document in MANIFESTS if document["kind"] == kind)
    return found


def said(instruction: str) -> list[str]:
    """What a Dockerfile's instructions of a kind say, in order."""
    return re.findall(rf"^{instruction}\s+(.+)$", DOCKERFILE, re.MULTILINE)


def in_image() -> dict[str, str]:
    """The settings that the image comes with."""
    return dict(re.findall(r"(FLOWS_\w+)=(\S+)", said("ENV")[-1]))


POD = manifest("Deployment")["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]


def test_the_image_copies_what_is_there_and_is_let_through() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = [line[1:] for line in lines if line.startswith("!")]

    sources = [word for words in said("COPY") if "--from" not in words for word in words.split()[:-1]]

    assert lines[1] == "*"
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert sorted(source.rstrip("/") for source in sources) == sorted(let_through)


def test_the_image_runs_a_command_of_ours_as_somebody_without_rights() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    (entry,), (command,) = json.loads(said("ENTRYPOINT")[-1]), json.loads(said("CMD")[-1])

    assert scripts[entry] == "server.cli:app"
    assert command in [known.name or known.callback.__name__ for known in app.registered_commands if known.callback]
    assert all(number.isdecimal() and int(number) > 0 for number in said("USER")[-1].split(":"))


def test_everything_that_is_installed_is_pinned() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]

    required = [one for one in map(Requirement, wanted) if one.name != project["name"]]

    assert [
        str(one) for one in required if not one.specifier.contains(pinned.get(canonicalize_name(one.name), ""))
    ] == []


def test_the_health_check_tells_a_living_service_from_none(start: StartService) -> None:
    (words,) = re.findall(r"HEALTHCHECK .*?CMD (\[.*\])", DOCKERFILE)
    _, *command = json.loads(words)
    with listen("nobody", "127.0.0.1", 0) as closed:
        nobody = url_of(closed)

    codes = [
        subprocess.run(
            [sys.executable, *command],
            env={**os.environ, "FLOWS_PORT": str(urlsplit(url).port)},
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
        for url in (start(checkpointer="memory").url, nobody)
    ]

    assert codes == [0, 1]


def test_the_compose_file_is_one() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]

    done = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_the_balancer_finds_two_replicas_where_they_listen() -> None:
    (exposed,) = said("EXPOSE")
    (bound,) = re.findall(r"bind :(\d+)", BALANCER)
    (name, port) = re.findall(r"server-template \S+ 1-\d+ (\w+):(\d+)", BALANCER)[0]

    assert COMPOSE[name]["deploy"]["replicas"] == 2
    assert (port, int(port)) == (exposed, Settings.model_fields["port"].default)
    assert [published.rsplit(":", 1)[1] for published in COMPOSE["balancer"]["ports"]] == [bound]
    assert all(published.startswith("127.0.0.1:") for published in COMPOSE["balancer"]["ports"])
    assert [DEPLOY / volume.split(":")[0] for volume in COMPOSE["balancer"]["volumes"]] == [DEPLOY / "haproxy.cfg"]


def test_the_balancer_waits_longer_than_anything_takes() -> None:
    waits = {name: int(seconds) for name, seconds in re.findall(r"timeout (client|server)\s+(\d+)s", BALANCER)}
    turn = float(COMPOSE["flows"]["environment"]["FLOWS_TURN_TIMEOUT_SECONDS"])

    assert waits.keys() == {"client", "server"}
    assert min(waits.values()) > max(turn + Settings.model_fields["busy_wait_seconds"].default, HEARTBEAT_SECONDS)


def test_the_demo_agents_are_where_the_shipped_flows_look_for_them() -> None:
    looked_for = {agent.url for flow in shipped_flows() for agent in load_flow(flow, {}).agents.values() if agent.url}
    aliases = COMPOSE["agents"]["networks"]["default"]["aliases"]

    served = {f"http://{name.replace('_', '-')}-agent:{agent.port}" for name, agent in AGENTS.items()}

    assert {f"http://{alias}" for alias in aliases} == {url.rsplit(":", 1)[0] for url in served}
    assert looked_for - served == {"http://relay-agent:8000"}  # the relay's agent is yours


def test_redis_keeps_what_it_was_told() -> None:
    command = COMPOSE["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))

    assert COMPOSE["redis"]["image"] == "redis:8"
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert [volume.split(":")[1] for volume in COMPOSE["redis"]["volumes"]] == ["/data"]
    assert "ports" not in COMPOSE["redis"]


@pytest.mark.parametrize("name", GUARDED)
def test_a_container_may_do_nothing_that_it_need_not(name: str) -> None:
    service = COMPOSE[name]

    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_manifests_are_what_kubernetes_takes(version: str) -> None:
    for document in MANIFESTS:
        assert kubernetes_validate.validate(document, version, strict=True) == version


def test_the_manifests_name_each_other() -> None:
    labels, service = POD["metadata"]["labels"], manifest("Service")
    (port,), (way,) = service["spec"]["ports"], manifest("Ingress")["spec"]["rules"]
    (path,) = way["http"]["paths"]
    (volume,) = (one["persistentVolumeClaim"] for one in POD["spec"]["volumes"] if "persistentVolumeClaim" in one)
    scaled = manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]

    assert manifest("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    assert port["targetPort"] in [one["name"] for one in CONTAINER["ports"]]
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
    assert (scaled["kind"], scaled["name"]) == ("Deployment", manifest("Deployment")["metadata"]["name"])
    assert volume["claimName"] == manifest("PersistentVolumeClaim")["metadata"]["name"]
    assert {"configMapRef": {"name": manifest("ConfigMap")["metadata"]["name"]}} in CONTAINER["envFrom"]
    assert {one["name"] for one in CONTAINER["volumeMounts"]} == {one["name"] for one in POD["spec"]["volumes"]}


def test_the_pod_keeps_to_the_restricted_standard_and_gets_no_settings_from_its_service() -> None:
    pod, container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    (user, group) = map(int, said("USER")[-1].split(":"))

    assert (pod["runAsNonRoot"], pod["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert (pod["runAsUser"], pod["runAsGroup"], pod["fsGroup"]) == (user, group, group)
    assert container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # A Service named "flows" would set FLOWS_PORT, and to an address.
    assert (POD["spec"]["enableServiceLinks"], POD["spec"]["automountServiceAccountToken"]) == (False, False)


def test_probes_ask_what_the_service_answers(start: StartService) -> None:
    service = start(checkpointer="memory")
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}

    assert probes == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}
    assert {service.http.get(path).status_code for path in probes.values()} == {200}
    assert [service.http.get(path).status_code for path in re.findall(r"uri (/\S+)", BALANCER)] == [200]


def test_a_replica_is_given_the_time_that_it_takes_to_stop() -> None:
    pause = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    in_pod, in_container = manifest("ConfigMap")["data"], COMPOSE["flows"]["environment"]

    assert POD["spec"]["terminationGracePeriodSeconds"] > pause + seconds_to_stop(in_pod)
    assert int(COMPOSE["flows"]["stop_grace_period"].removesuffix("s")) > seconds_to_stop(in_container)


def seconds_to_stop(env: dict[str, Any]) -> float:
    """How long stopping takes at most: drain, turns that are answered, those that go by themselves, archive."""
    settings = Settings(
        turn_timeout_seconds=float(env["FLOWS_TURN_TIMEOUT_SECONDS"]),
        drain_seconds=float(env.get("FLOWS_DRAIN_SECONDS", 0)),
    )
    return settings.drain_seconds + grace_of(settings) + settings.turn_timeout_seconds + _CLOSING_SECONDS


@pytest.mark.parametrize(
    "env", [COMPOSE["flows"]["environment"], manifest("ConfigMap")["data"]], ids=["compose", "kubernetes"]
)
def test_the_settings_are_ones_and_make_sense(env: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given = in_image() | {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(value)) for name, value in env.items()}
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    settings = read_settings()

    assert list(unknown_settings(given)) == []
    assert (settings.host, settings.checkpointer) == ("0.0.0.0", "core")
    mounts = {volume.split(":")[1] for volume in COMPOSE["flows"]["volumes"]}
    mounts &= {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert str(settings.archive_dir) in mounts


def test_every_variable_that_is_named_is_a_setting() -> None:
    files = [ROOT / "Dockerfile", *(file for file in DEPLOY.rglob("*") if file.is_file())]
    named = {
        name for text in [DOCUMENT, *(file.read_text() for file in files)] for name in re.findall(r"FLOWS_\w+", text)
    }

    assert list(unknown_settings(dict.fromkeys(named, ""))) == []


def test_what_the_document_links_to_and_names_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", DOCUMENT)
    files = {file.name for file in DEPLOY.rglob("*") if file.is_file()}

    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    assert [name for name in files if name not in DOCUMENT] == []
    assert [name for name in re.findall(r"deploy/[\w./-]+", DOCUMENT) if not (ROOT / name).exists()] == []
