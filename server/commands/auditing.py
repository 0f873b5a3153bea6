"""`flows audit`: what is wrong with a call's trail or the files of an archive; and taking words out of such files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx
import typer

from graph.archive import days
from graph.archive_checks import Finding, Proof
from graph.archive_erasing import erase
from graph.audit import ERASABLE, WORDS
from server.commands.talking import NoService, address_of
from server.listening import is_loopback


class CannotRead(OSError):
    """There is no such trail, or it cannot be read."""

    exit_code = 2


def verify_trail(named: str, url: str, key: bytes) -> bool:
    """Print what is wrong with a file, a folder of files, or a call of a running service; tell whether nothing is.

    Raises:
        CannotRead: if there is none, or it cannot be read.
    """
    path = Path(named)
    try:
        if path.exists():
            return _verify_files(_files(path), key)
    except OSError as error:
        raise CannotRead(f"cannot read {named!r}: {error.strerror or error}") from error
    except ValueError as error:  # a name with a zero in it
        raise CannotRead(f"{named!r} names neither a file nor a call") from error
    if "/" in named:
        raise CannotRead(f"there is no file {named!r}")
    return _verify_call(named, url)


def erase_words(named: str, tenant: str, call: str, fields: Sequence[str], numbers: Sequence[int]) -> bool:
    """Erase what people said in a call from a file or a folder of files, and print how much that was; tell whether
    there was anything.

    Raises:
        CannotRead: if there is no such file, it cannot be replaced, or there is no such field.
    """
    if unknown := [field for field in fields if field not in WORDS]:
        raise CannotRead(f"{unknown[0]!r} holds nothing that people said; choose among {', '.join(WORDS)}")
    try:
        count = sum(
            erase(file, tenant, call, fields=fields or ERASABLE, numbers=numbers or None)
            for file in _files(Path(named))
        )
    except (OSError, ValueError) as error:
        raise CannotRead(f"cannot erase from {named!r}: {getattr(error, 'strerror', None) or error}") from error
    if count:
        typer.echo(f"erased {_many(count, 'field')} of call {call!r} from {named}")
    else:
        typer.echo(f"flows: nothing of call {call!r} of tenant {tenant!r} is to be erased from {named}", err=True)
    return count > 0


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if not (files := days(path)):
        raise OSError("there is no file of a day in it")
    return files


def _verify_files(files: Sequence[Path], key: bytes) -> bool:
    proof, sound = Proof(files, key), True
    for finding in proof.findings():
        sound = sound and not finding.is_fault
        typer.echo(_told(finding), err=finding.is_fault)
    erased = f", {_many(proof.erased, 'field')} erased" if proof.erased else ""
    read = f"{_many(proof.segments, 'trail')}, {_many(proof.steps, 'step')}{erased}"
    verdict = "is sound" if sound else "is not as it was sealed"
    typer.echo(f"what was archived {verdict}: {read}; last seal {proof.seal}")
    return sound


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _told(finding: Finding) -> str:
    place = f"{finding.file}:{finding.line}" if finding.line else str(finding.file)
    return f"{'' if finding.is_fault else 'note: '}{place}: {_of_step(finding.call, finding.step)}{finding.what}"


def _of_step(call: str | None, step: int | None) -> str:
    whose = f"call {call!r}: " if call is not None else ""
    return f"{whose}step {step} " if step is not None else whose


def _verify_call(call: str, url: str) -> bool:
    told = _asked(call, url)
    faults: Iterable[dict[str, Any]] = told["faults"]
    for fault in faults:
        typer.echo(_of_step(call, fault["step"]) + str(fault["what"]), err=True)
    verdict = "is sound" if told["verified"] else "is not as it was sealed"
    typer.echo(f"the trail of call {call!r} {verdict}: {_many(told['count'], 'step')}, head {told['head']}")
    return bool(told["verified"])


def _asked(call: str, url: str) -> dict[str, Any]:
    try:
        address = address_of(url)
    except NoService as error:
        raise CannotRead(str(error)) from error
    path = httpx.URL("/").copy_with(path=f"/{call}").raw_path.decode()
    # A proxy that the environment names cannot reach a service on this machine's loopback.
    try:
        with httpx.Client(base_url=address, timeout=60, trust_env=not is_loopback(address.host)) as client:
            answer = client.get(f"/session{path}/steps", params={"verify": "true"})
        told = answer.json()
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise CannotRead(f"no service answers at {url} ({why}); name it with --url, or name a file") from error
    except ValueError as error:
        raise CannotRead(f"what answers at {url} is no service of ours; check the address") from error
    if not answer.is_success or not isinstance(told, dict) or "verified" not in told:
        detail = told.get("detail") if isinstance(told, dict) else None
        raise CannotRead(f"{detail or answer.reason_phrase}; what has ended is in the archive: name a file of it")
    return told
