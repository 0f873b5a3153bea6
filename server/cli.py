"""The `flows` command. Each command imports what it needs when it runs, so that `flows check` answers at once."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Runs customer-service calls through flows of remote A2A agents.",
)

audit = typer.Typer(no_args_is_help=True, help="Prove the audit trails of calls, and erase what people said.")
app.add_typer(audit, name="audit")

agents = typer.Typer(invoke_without_command=True)
app.add_typer(agents, name="agents")

FlowArgument = Annotated[str, typer.Argument(help="A YAML file, or a shipped flow's name.")]
AgentArgument = Annotated[str, typer.Argument(metavar="NAME", help="The agent, as its flow names it.")]
ByOption = Annotated[str | None, typer.Option(metavar="WHO", help="Who says so, if not who is logged in here.")]
_WHY = "Why; the history keeps it."
ServiceOption = Annotated[
    str | None, typer.Option("--service", "--url", help="The service's address (FLOWS_HOST, FLOWS_PORT).")
]


@app.command()
def check(flow: FlowArgument = "call") -> None:
    """Check a flow: file, line and remedy for everything wrong with it."""
    with _clear_errors():
        from graph.loader import load_flow

        loaded = load_flow(flow)
        intents = sum(len(stage.intents) for stage in loaded.stages.values())
        typer.echo(
            f"{loaded.flow} (version {loaded.version}) is sound: "
            f"{len(loaded.stages)} stages, {intents} intents, {len(loaded.agents)} agents"
        )


@app.command()
def draw(
    flow: FlowArgument = "call",
    png: Annotated[Path | None, typer.Option(help="Write a picture to this file instead.")] = None,
) -> None:
    """Draw a flow as Mermaid text, or as a PNG picture (no network needed)."""
    with _clear_errors():
        from graph import draw as drawing
        from graph.loader import load_flow

        loaded = load_flow(flow)
        if png is None:
            typer.echo(drawing.mermaid(loaded))
        else:
            _write(png, drawing.png(loaded))
            typer.echo(f"wrote {png}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the flow language, for editors."""
    import json

    from graph.flow import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def run(
    flow: FlowArgument,
    given: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=VALUE", help="One of the flow's inputs; JSON, or text."),
    ] = None,
    given_json: Annotated[
        str | None, typer.Option("--input-json", help="The flow's inputs as a JSON object.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="What the caller says, instead of asking here.")] = None,
    intent: Annotated[str | None, typer.Option(help="The intent of that message.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only what came of it, as JSON.")] = False,
) -> None:
    """Run a flow here, seeing its stages light up: exit 0 done, 1 failed, 2 bad input, 3 waits for a person."""
    with _clear_errors():
        from server.commands.running import run_flow

        raise typer.Exit(run_flow(flow, given or [], given_json, message, intent, as_json=as_json))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen (FLOWS_HOST).")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Which port (FLOWS_PORT); 0 takes a free one.")
    ] = None,
    flow: Annotated[str | None, typer.Option(help="Which flow (FLOWS_FLOW).")] = None,
) -> None:
    """Serve a flow over HTTP until Ctrl-C or SIGTERM."""
    with _clear_errors():
        from server.commands.serving import run_service

        run_service({"host": host, "port": port, "flow": flow})


@app.command()
def reload(
    url: Annotated[str | None, typer.Option(help="The service's address (FLOWS_HOST, FLOWS_PORT).")] = None,
) -> None:
    """Let a running service read its flows again, with FLOWS_ADMIN_TOKEN if it wants one; exit 1 if one is bad."""
    with _clear_errors():
        from server.commands.reloading import reload_flows

        raise typer.Exit(0 if reload_flows(_address(url)) else 1)


@app.command()
def parked(
    url: Annotated[str | None, typer.Option(help="The service's address (FLOWS_HOST, FLOWS_PORT).")] = None,
) -> None:
    """List the writes of which nobody knows what came of them, with FLOWS_ADMIN_TOKEN if the service wants one."""
    with _clear_errors():
        from server.commands.parked import show_parked

        show_parked(_address(url))


@app.command()
def resolve(
    parked_id: Annotated[str, typer.Argument(metavar="ID", help="The parked write's id.")],
    outcome: Annotated[Literal["done", "not_done"], typer.Argument(help="Whether its agent acted on it.")],
    by: Annotated[str, typer.Option(metavar="WHO", help="Who says so; the audit trail keeps it.")],
    why: Annotated[str, typer.Option(metavar="TEXT", help="How they know; the audit trail keeps it.")],
    response: Annotated[
        str | None, typer.Option(help='For `done`: what the agent answered, text or {"text": …, "data": …}.')
    ] = None,
    url: Annotated[str | None, typer.Option(help="The service's address (FLOWS_HOST, FLOWS_PORT).")] = None,
) -> None:
    """Say what came of a parked write, with FLOWS_ADMIN_TOKEN if the service wants one: its call goes on."""
    with _clear_errors():
        from server.commands.parked import resolve_parked

        resolve_parked(_address(url), parked_id, outcome, by, why, response)


@app.command(name="demo-agents")
def demo_agents(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    env: Annotated[
        bool, typer.Option("--env", help="Print the variables that send `flows serve` to them, for eval, and exit.")
    ] = False,
) -> None:
    """Serve the seventeen demo agents on ports 8001 to 8017 until Ctrl-C or SIGTERM."""
    with _clear_errors():
        from server.commands.serving import demo_agents_environment, run_demo_agents

        if env:
            typer.echo(demo_agents_environment(host))
        else:
            run_demo_agents(host)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the call.")] = False,
) -> None:
    """Start the demo agents and the service, and walk one call through all five stages."""
    with _clear_errors():
        from server.commands.demo import run_demo

        run_demo(once=once)


@app.command()
def call(
    url: Annotated[str, typer.Option(help="The service's address.")] = "http://127.0.0.1:8000",  # talking.DEFAULT_URL
    call_id: Annotated[str | None, typer.Option("--call-id", help="Go on with this call.")] = None,
    account: Annotated[str, typer.Option(help="The account_id to send.")] = "ACC-DEMO",
    eci: Annotated[str, typer.Option(help="The eci to send.")] = "ECI-DEMO",
) -> None:
    """Talk to a running service as a caller would, seeing stage, agent and time of each answer."""
    with _clear_errors():
        from server.commands.talking import talk

        talk(url, call_id, account, eci)


@app.command()
def explain(
    call_id: Annotated[str, typer.Argument(metavar="CALL-ID", help="The call, as `call_identify_id` names it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    url: Annotated[str | None, typer.Option(help="The service's address (FLOWS_HOST, FLOWS_PORT).")] = None,
) -> None:
    """Say why a call went where it went: intents, who could have been asked, who was, and what came of it."""
    with _clear_errors():
        from server.commands.explaining import explain_call

        explain_call(_address(url), call_id, as_json=as_json)


@agents.callback()
def agents_table(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print them once, instead of each second.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print them once, as JSON.")] = False,
    url: ServiceOption = None,
) -> None:
    """Watch how the agents of a running service do, switch them off and on, weigh their versions, register instances;
    with FLOWS_ADMIN_TOKEN if the service wants one."""
    if context.invoked_subcommand is not None:
        if url is not None:  # or it would be the wrong service
            raise typer.BadParameter(f"write it after `{context.invoked_subcommand}`", param_hint="--service")
    else:
        with _clear_errors():
            from server.commands.agents import show_agents

            show_agents(_address(url), once=once, as_json=as_json)


@agents.command(name="off")
def agents_off(
    name: AgentArgument,
    reason: Annotated[str, typer.Option("--reason", "--why", metavar="TEXT", help=_WHY)],
    by: ByOption = None,
    url: ServiceOption = None,
) -> None:
    """Switch an agent off: within a second no call reaches it, on all replicas. Its fallback is asked instead, or the
    flow's, if it has none; then the call stays at its stage."""
    with _clear_errors():
        from server.commands.agents import switch_off

        switch_off(_address(url), name, reason, by)


@agents.command(name="on")
def agents_on(
    name: AgentArgument,
    why: Annotated[str | None, typer.Option("--why", "--reason", metavar="TEXT", help=_WHY)] = None,
    by: ByOption = None,
    url: ServiceOption = None,
) -> None:
    """Switch an agent on again."""
    with _clear_errors():
        from server.commands.agents import switch_on

        switch_on(_address(url), name, why, by)


@agents.command(name="weights")
def agents_weights(
    name: AgentArgument,
    weights: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VERSION=WEIGHT",
            help="The weight of each version, 0 for no calls; one that is left out gets them only where no other can "
            "be asked.",
        ),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the weights of the flow.")] = False,
    why: Annotated[
        str, typer.Option("--why", "--reason", metavar="TEXT", help=_WHY, show_default=False)
    ] = "set by flows agents",
    by: ByOption = None,
    url: ServiceOption = None,
) -> None:
    """Share out an agent's calls over its versions anew: v1=90 v2=10."""
    with _clear_errors():
        from server.commands.agents import weigh

        weigh(_address(url), name, weights or [], why, by, reset=reset)


@agents.command(name="register")
def agents_register(
    card: Annotated[str | None, typer.Option(metavar="URL", help="Where its card lies, which says all else.")] = None,
    name: Annotated[str | None, typer.Option(help="The instance; the same name again takes its place.")] = None,
    agent_type: Annotated[
        str | None, typer.Option("--type", help="Of which agent it is an instance, by name or `type`.")
    ] = None,
    agent_url: Annotated[str | None, typer.Option("--url", metavar="URL", help="Where it answers.")] = None,
    version: Annotated[str | None, typer.Option(help="Which version of the agent it is.")] = None,
    ttl: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="How long it is kept without a heartbeat.")
    ] = None,
    service: Annotated[
        str | None, typer.Option(metavar="URL", help="The service's address (FLOWS_HOST, FLOWS_PORT).")
    ] = None,
) -> None:
    """Register an instance of an agent: by --card alone, or by --name, --type and --url."""
    with _clear_errors():
        from server.commands.agents import register

        said = {"card_url": card, "name": name, "agent_type": agent_type, "url": agent_url}
        register(_address(service), {**said, "version": version, "ttl_seconds": ttl})


@agents.command(name="remove")
def agents_remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The instance, as it is registered.")],
    url: ServiceOption = None,
) -> None:
    """Take a registered instance away: no call begins there any more."""
    with _clear_errors():
        from server.commands.agents import remove

        remove(_address(url), name)


@audit.command(name="verify")
def audit_verify(
    trail: Annotated[str, typer.Argument(help="A file of an archive, its folder, or a call of a running service.")],
    url: Annotated[str | None, typer.Option(help="The service's address (FLOWS_HOST, FLOWS_PORT).")] = None,
) -> None:
    """Find what was changed, removed or reordered, with FLOWS_AUDIT_KEY if there is one: exit 0 sound, 1 broken, 2
    cannot be read."""
    with _clear_errors():
        from server.commands.auditing import verify_trail
        from server.settings import read_settings

        settings = read_settings()
        address = url or f"http://{settings.host}:{settings.port}"
        raise typer.Exit(0 if verify_trail(trail, address, settings.audit_secret) else 1)


@audit.command(name="erase")
def audit_erase(
    file: Annotated[str, typer.Argument(help="A file of an archive, or its folder.")],
    call_id: Annotated[str, typer.Argument(help="The call.")],
    field: Annotated[
        list[str] | None, typer.Option(help="A field of its steps; all but a person's `resolution` if left out.")
    ] = None,
    step: Annotated[list[int] | None, typer.Option(min=1, help="A step's number; all if left out.")] = None,
) -> None:
    """Erase what people said in a call of FLOWS_TENANT; what is left still verifies. Exit 1 if nothing was there."""
    with _clear_errors():
        from server.commands.auditing import erase_words
        from server.settings import read_settings

        done = erase_words(file, read_settings().tenant, call_id, field or [], step or [])
        raise typer.Exit(0 if done else 1)


def _address(url: str | None) -> str:
    """Return where the service is, by the settings if it is not said."""
    from server.settings import read_settings

    settings = read_settings()
    return url or f"http://{settings.host}:{settings.port}"


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise OSError(f"cannot write {str(file)!r}: {error.strerror}; name a file in a folder that exists") from error


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Say what is wrong and how to mend it, without a traceback, where the cause lies outside the program."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _expected()):
            raise
        for line in str(error).splitlines():
            typer.echo(f"flows: {line}", err=True)
        raise typer.Exit(getattr(error, "exit_code", 1)) from None


def _expected() -> tuple[type[Exception], ...]:
    """Name the errors a user can do something about, among the modules that were needed at all."""
    homes = {
        "graph.loader": "FlowError",
        "graph.draw": "DrawError",
        "graph.store.errors": "StoreError",
        "graph.store.embedded": "EmbeddedStoreError",
        "server.commands.inputs": "BadInput",
        "server.listening": "CannotListen",
        "server.settings": "SettingsError",
    }
    loaded: list[Any] = [
        getattr(sys.modules[home], name, None) for home, name in homes.items() if home in sys.modules
    ]
    return (OSError, *[kind for kind in loaded if kind is not None])


if __name__ == "__main__":
    app()
