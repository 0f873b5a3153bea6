"""The JavaScript SDK of both versions against the call flow: installed from its registry, unmodified, over HTTP."""

import json
import shutil
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest

from tests.client_story import TURNS, outcome
from tests.conftest import StartService

SCRIPTS = Path(__file__).parent / "js"


@pytest.fixture(scope="session")
def js() -> Path:
    """A folder with our scripts and the SDKs they import, kept between runs until package.json changes."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed")
    wanted = sha256((SCRIPTS / "package.json").read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"orchestrator-flows-js-{wanted}"
    shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
    if not (folder / "installed").exists():
        _install(folder)
    return folder


def _install(folder: Path) -> None:
    quietly = ["--no-audit", "--no-fund", "--no-package-lock", "--fetch-retries=1", "--fetch-timeout=30000"]
    try:
        subprocess.run(
            ["npm", "install", *quietly], cwd=folder, capture_output=True, text=True, timeout=180, check=True
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer")
    except subprocess.CalledProcessError as error:
        reasons = [line for line in error.stderr.splitlines() if line.startswith("npm error")]
        pytest.skip(f"npm cannot install the JavaScript SDK: {' '.join(reasons[:4])}")
    (folder / "installed").touch()


@pytest.mark.parametrize(("script", "listed"), [("v1.mjs", True), ("v03.mjs", False)], ids=["1.0", "0.3"])
def test_the_javascript_sdk_plays_the_story(js: Path, start: StartService, script: str, listed: bool) -> None:
    service = start(checkpointer="memory")

    command = ["node", script, service.url, json.dumps(TURNS)]
    played = subprocess.run(command, cwd=js, capture_output=True, text=True, timeout=60)

    assert played.returncode == 0, played.stderr
    assert json.loads(played.stdout) == outcome(listed=listed)
