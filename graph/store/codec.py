"""How a checkpoint is written down on `core`: LangGraph's own serializer over one tuple, without the turn's steps,
which the audit trail beside it holds already; and packed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, CheckpointTuple, PendingWrite
from langgraph.checkpoint.serde.base import SerializerProtocol

from graph.store.packing import CHECKPOINTS

_STEPS = "steps"


class Codec:
    """Writes and reads checkpoints and pending writes."""

    def __init__(self, serde: SerializerProtocol) -> None:
        self._serde = serde

    def encode(
        self, checkpoint: Checkpoint, metadata: CheckpointMetadata, parent: str | None, *, steps: bool
    ) -> bytes:
        """Write a checkpoint down; `steps` says whether the turn's steps are kept in it."""
        values = checkpoint["channel_values"]
        if not steps and _STEPS in values:
            values = {key: value for key, value in values.items() if key != _STEPS}
        return CHECKPOINTS.pack(self._dump(({**checkpoint, "channel_values": values}, metadata, parent)))

    def decode(
        self, thread_id: str, namespace: str, checkpoint_id: str, blob: bytes | None, writes: Sequence[bytes]
    ) -> CheckpointTuple | None:
        """Read a checkpoint back; `writes` are the call's pending writes, fields and values in turn."""
        if blob is None:
            return None
        checkpoint, metadata, parent = self._load(CHECKPOINTS.unpack(blob))
        pending = self.pending(namespace, checkpoint_id, writes)
        return CheckpointTuple(
            _config(thread_id, namespace, checkpoint_id),
            checkpoint,
            metadata,
            _config(thread_id, namespace, parent) if parent else None,
            pending,
        )

    def encode_write(self, channel: str, value: Any, task_path: str) -> bytes:
        """Write one pending write down."""
        return self._dump((channel, value, task_path))

    def pending(self, namespace: str, checkpoint_id: str, writes: Sequence[bytes]) -> list[PendingWrite]:
        """Return the pending writes of one checkpoint, in the order in which they were made."""
        stem = f"{namespace}|{checkpoint_id}|".encode()
        found: list[tuple[tuple[str, str, int], PendingWrite]] = []
        for field, blob in _pairs(writes):
            if field.startswith(stem):
                task_id, _, index = field[len(stem) :].decode().rpartition("|")
                channel, value, task_path = self._load(blob)
                found.append(((task_path, task_id, int(index)), (task_id, channel, value)))
        return [write for _, write in sorted(found, key=lambda item: item[0])]

    def _dump(self, value: Any) -> bytes:
        kind, blob = self._serde.dumps_typed(value)
        return kind.encode() + b":" + blob

    def _load(self, blob: bytes) -> Any:
        kind, _, body = blob.partition(b":")
        return self._serde.loads_typed((kind.decode(), body))


def _config(thread_id: str, namespace: str, checkpoint_id: str) -> Any:
    ids = {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return {"configurable": ids}


def _pairs(flat: Sequence[bytes] | Mapping[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    if isinstance(flat, Mapping):
        return iter(flat.items())
    return zip(flat[::2], flat[1::2], strict=True)
