"""The flows that a service serves, and their versions: a new run begins on the current one of its flow, and goes on
with that version although the file changes and the service restarts."""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import structlog

from graph.builder import CallGraph
from graph.flow import Flow
from graph.loader import FlowError, Problem, parse_flow
from graph.routing import Routes, routes_of
from graph.store.errors import StoreError
from graph.store.opening import Store
from graph.store.versions import KeptVersion
from nodes.runs import has_ended
from server.flow_files import FlowFile, FlowFiles
from server.problems import FlowNotFound

IDLE_SECONDS = 86_400.0
"""How long a version is kept that no call is on, after a service served it last: another replica may begin calls on
it still, or be started with it again."""

_AT_HAND = 200
"""How many versions are kept compiled besides the current ones."""

log = structlog.get_logger()

Build = Callable[[Flow], CallGraph]


@dataclass(frozen=True, eq=False)
class Version:
    """A version of a flow; compiled for its first turn, as a service is never asked for most of what it could run."""

    flow: Flow
    build: Callable[[], CallGraph] = field(repr=False)
    text: str = field(default="", repr=False)
    """As its file was written; empty for a flow made in Python, which cannot be kept."""
    file: str = ""
    fills: bool = True
    """Whether `${VARIABLE}` in it is looked up in the environment."""

    def build_now(self) -> None:
        """Compile it before somebody waits."""
        _ = self.graph

    @cached_property
    def graph(self) -> CallGraph:
        """The flow, ready to run."""
        return self.build()

    @cached_property
    def routes(self) -> Routes:
        """The flow as the router sees it."""
        return routes_of(self.flow)

    @property
    def key(self) -> str:
        """What the store notes of a call that is on it."""
        return f"{self.flow.flow} {self.flow.digest}"

    @cached_property
    def saves_once(self) -> bool:
        """Whether a turn is one super-step that answers, so that its one save can be its commit."""
        return self.flow.waits_for == "caller" and not any(stage.branches for stage in self.flow.stages.values())

    def kept(self) -> KeptVersion:
        """Return it as the store keeps it, seen now."""
        return KeptVersion(self.flow.flow, self.flow.digest, self.file, time.time(), self.text, self.fills)


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload did to a flow: the digests of its current version before and after; None where there is none."""

    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of a reload."""

    changed: Mapping[str, Change]
    """By the flow's name."""
    refused: Sequence[Problem]
    """What is wrong with the files that do not check; their flows stay as they were."""


class Flows:
    """The flows of a service.

    Args:
        store: where calls live and versions are kept.
        build: compiles a flow.
        tenant: whose calls these are.
        env: where `${NAME}` in files is looked up; the process's environment by default.
        files: reads the files of the flows that are served.
        idle: seconds since a service served a version last, after which it is forgotten if no call is on it.
    """

    def __init__(
        self,
        store: Store,
        build: Build,
        *,
        tenant: str,
        env: Mapping[str, str] | None = None,
        files: Callable[[], FlowFiles] = FlowFiles,
        idle: float = IDLE_SECONDS,
    ) -> None:
        self._store = store
        self._build = build
        self._tenant = tenant
        self.env = os.environ if env is None else env
        self._files = files
        self._idle = idle
        self._current: dict[str, Version] = {}
        self._at_hand: OrderedDict[str, Version] = OrderedDict()
        self._reloading = asyncio.Lock()
        self.default = ""
        """The name of the flow that calls begin on which name none."""

    async def open(self, found: FlowFiles) -> None:
        """Serve what the files say, and have the store keep it."""
        for version in await asyncio.to_thread(self._versions, found):
            self.serve(version)
        self.default = found.default
        await self.keep()

    def serve(self, version: Version) -> None:
        """Let new calls of its flow begin on a version; the first flow is the default one."""
        before = self._current.get(version.flow.flow)
        if before is not None:
            self._put_at_hand(before)
        self._current[version.flow.flow] = version
        self.default = self.default or version.flow.flow

    def names(self) -> list[str]:
        """Return the flows that are served from files, the default one first."""
        return sorted(self._current, key=lambda name: (name != self.default, name))

    def current(self, name: str | None = None) -> Version:
        """Return the version that new calls of a flow begin on; of the default flow, if none is named.

        Raises:
            FlowNotFound: if no file has such a flow.
        """
        version = self._current.get(name or self.default)
        if version is None:
            raise _not_found(name or self.default, self.names())
        return version

    async def find(self, name: str | None = None) -> Version:
        """Return what `current` does, also of a flow that was made at run time, on any replica.

        Raises:
            FlowNotFound: if there is no such flow.
            StoreError: if the store failed.
        """
        if (name or self.default) in self._current:
            return self._current[name or self.default]
        digest = await self._store.versions.made_as(self._tenant, name or self.default)
        version = await self.version(digest) if digest else None
        if version is None:
            raise _not_found(name or self.default, self.names())
        return version

    async def made(self) -> list[str]:
        """Return the flows that were made at run time."""
        return sorted(await self._store.versions.made(self._tenant))

    def known(self, key: str) -> Version | None:
        """Return a version that is at hand, by what the store notes of calls that are on it; it may exist if not."""
        name, _, digest = key.partition(" ")
        current = self._current.get(name)
        return current if current and current.flow.digest == digest else self._at_hand.get(digest)

    async def version(self, digest: str) -> Version | None:
        """Return a version by the content hash of its flow; None if it is gone, or checks no more.

        Raises:
            StoreError: if the store failed.
        """
        for current in self._current.values():
            if current.flow.digest == digest:
                return current
        if digest in self._at_hand:
            self._at_hand.move_to_end(digest)
            return self._at_hand[digest]
        kept = await self._store.versions.get(self._tenant, digest)
        version = await asyncio.to_thread(self._again, kept) if kept else None
        if version is not None:
            self._put_at_hand(version)
        return version

    async def version_of(self, state: Mapping[str, Any], noted: str = "") -> Version | None:
        """Return the version that a call began its run with; None if it is nowhere to be found.

        Args:
            state: the call's; of one that knows no version, the flow's current one is returned.
            noted: what the store notes of the call.

        Raises:
            StoreError: if the store failed.
        """
        name, _, digest = noted.partition(" ")
        digest = state.get("flow_digest") or digest
        current = self._current.get(state.get("flow") or name)
        if current is not None and digest in ("", current.flow.digest):
            return current
        return await self.version(digest) if digest else None

    async def next_of(self, state: Mapping[str, Any], noted: str = "") -> Version | None:
        """Return the version that a call's next turn is on: that of its run, or once that has ended the current one;
        None if it is nowhere to be found.

        Raises:
            StoreError: if the store failed.
        """
        if has_ended(state):
            with suppress(FlowNotFound):
                return await self.find(state.get("flow"))
        return await self.version_of(state, noted)

    async def routes_at(self, noted: str, flow: str) -> Routes:
        """Return the flow as the router sees it, in the version noted of a call, or the current one."""
        version = await self.version_of({"flow": flow}, noted)
        return (version or await self.find(flow)).routes

    async def add(self, text: str, file: str, *, fills: bool = False) -> Version:
        """Serve a flow that is made at run time; every replica knows it from now on, and after a restart.

        Args:
            text: the flow, as a file would have it.
            file: what names it in messages.
            fills: whether `${NAME}` in it is looked up in the environment. Never for what a client wrote: it would
                learn what our environment holds.

        Raises:
            FlowError: if it does not check, or a file has a flow of that name.
            StoreError: if the store failed.
        """
        version = await asyncio.to_thread(self._made, text, file, fills)
        if version.flow.flow in self._current:
            message = f"a flow named {version.flow.flow!r} is served from {self._current[version.flow.flow].file}"
            raise FlowError([Problem(file, 1, f"{message}; choose another name")])
        await self._store.versions.make(self._tenant, version.kept())
        self._put_at_hand(version)
        return version

    async def remove(self, name: str) -> bool:
        """Let no new call begin on a flow that was made at run time; tell whether there was one."""
        with suppress(FlowNotFound):  # what was begun on it can be told of as long as if a file had held it
            await self._store.versions.put(self._tenant, [(await self.find(name)).kept()])
        return await self._store.versions.unmake(self._tenant, name)

    async def reload(self) -> Reloaded:
        """Read the files again. New runs begin on what they say now, those under way go on with what they began with;
        a flow whose file does not check stays as it was.

        Raises:
            StoreError: if the store failed; then nothing is changed.
        """
        async with self._reloading:
            found = await asyncio.to_thread(self._files)
            before = {name: version.flow.digest for name, version in self._current.items()}
            stay = [name for name, version in self._current.items() if version.file in found.refused]
            for name in stay:  # a shipped flow of that name may have come in its place
                found.flows.pop(name, None)
            fresh = await asyncio.to_thread(self._versions, found)
            await self._store.versions.put(self._tenant, [version.kept() for version in fresh if version.text])
            for name in set(before).difference(found.flows, stay):
                self._put_at_hand(self._current.pop(name))
            for version in fresh:
                self.serve(version)
            self.default = found.default or self.default
            after = {name: version.flow.digest for name, version in self._current.items()}
        changed = {
            name: Change(before.get(name), after.get(name))
            for name in sorted(before | after)
            if before.get(name) != after.get(name)
        }
        refused = [problem for error in found.refused.values() for problem in error.problems]
        log.info("flows reloaded", changed=list(changed), refused=[str(problem) for problem in refused])
        try:
            await self.keep()
        except StoreError as error:  # what was read is served and kept; what nobody needs is forgotten another time
            log.warning("flow versions not looked through", reason=str(error))
        return Reloaded(changed, refused)

    async def keep(self, idle: float | None = None) -> None:
        """Have the store keep the current versions, and forget those that nobody needs any more.

        Args:
            idle: in place of the service's own.
        """
        idle = self._idle if idle is None else idle
        kept, now = self._store.versions, time.time()
        await kept.put(self._tenant, [version.kept() for version in self._current.values() if version.text])
        old = {version.digest for version in await kept.all(self._tenant) if now - version.seen >= idle}
        old -= {version.flow.digest for version in self._current.values()}
        if not old:
            return
        used = {key.partition(" ")[2] for key in await self.calls_on()}
        await kept.drop(self._tenant, old - used - set((await kept.made(self._tenant)).values()))

    async def calls_on(self) -> Mapping[str, int]:
        """Return how many calls are in a run on each version, by `Version.key`."""
        return await self._store.calls.on_versions(self._tenant)

    def _versions(self, found: FlowFiles) -> list[Version]:
        """Compile what was found, as far as it is new."""
        return [self._same(file) or self._compiled(file) for file in found.flows.values()]

    def _same(self, file: FlowFile) -> Version | None:
        current = self._current.get(file.flow.flow)
        if current is None or (current.flow.digest, current.file) != (file.flow.digest, file.file):
            return None
        return current if current.text == file.text else replace(current, text=file.text)  # comments, that is

    def _compiled(self, file: FlowFile, fills: bool = True) -> Version:
        return Version(file.flow, partial(self._build, file.flow), file.text, file.file, fills)

    def _made(self, text: str, file: str, fills: bool) -> Version:
        flow = parse_flow(text, file, self.env if fills else {})
        return self._compiled(FlowFile(flow, text, file), fills)

    def _again(self, kept: KeptVersion) -> Version | None:
        try:
            return self._made(kept.text, kept.file, kept.fills)
        except FlowError as error:
            log.error("a version that calls are on checks no more", flow=kept.flow, reason=str(error))
            return None

    def _put_at_hand(self, version: Version) -> None:
        self._at_hand[version.flow.digest] = version
        while len(self._at_hand) > _AT_HAND:
            self._at_hand.popitem(last=False)


def _not_found(name: str, names: Sequence[str]) -> FlowNotFound:
    return FlowNotFound(f"there is no flow {name!r}; those served are {', '.join(names)}")
