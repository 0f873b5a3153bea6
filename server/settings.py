"""One typed settings object, read once from the environment and passed down as small values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Checkpointer = Literal["auto", "core", "langgraph-redis", "memory"]
LogLevel = Literal["debug", "info", "warning", "error"]


class SettingsError(Exception):
    """The environment holds a setting that makes no sense; the message names it."""


class Settings(BaseSettings):
    """Everything that can be configured. Times are seconds, sizes bytes."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_", frozen=True, env_ignore_empty=True)

    redis_url: SecretStr | None = Field(default=None, validation_alias="REDIS_URL")
    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    openai_base_url: SecretStr | None = Field(default=None, validation_alias="OPENAI_BASE_URL")
    openai_model: str | None = Field(default=None, validation_alias="OPENAI_MODEL")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    checkpointer: Checkpointer = "auto"
    data_dir: Path = Path(".flows")
    fsync: Literal["everysec", "always"] = "everysec"
    archive: str | None = None
    """The folder where sealed trails go when calls are over; `archive` in `data_dir` if None, nowhere if `off`."""
    audit_key: SecretStr | None = Field(default=None, min_length=16)
    """Makes the hashes of audit trails ones that only who has it can make."""
    flow: str = "call"
    flows: Annotated[tuple[str, ...] | None, NoDecode] = None
    """Further flows: shipped ones, files, and folders of files; None for every shipped flow."""
    admin_token: SecretStr | None = Field(default=None, min_length=16)
    """What those show who administer a service that others than this machine can reach."""
    tenant: str = Field(default="default", min_length=1, max_length=100)
    session_ttl_seconds: int = Field(default=3600, ge=1)
    execution_ttl_seconds: int = Field(default=2_592_000, ge=1)
    agent_timeout_seconds: float = Field(default=15, gt=0)
    turn_timeout_seconds: float = Field(default=20, gt=0)
    drain_seconds: float = Field(default=0, ge=0, le=3600)
    """How long a service that is told to stop serves on, not ready, until no balancer sends it anything any more."""
    classifier_timeout_seconds: float = Field(default=3, gt=0)
    lease_seconds: float = Field(default=30, ge=0.5)
    busy_wait_seconds: float = Field(default=5, ge=0)
    max_body_bytes: int = Field(default=1_000_000, ge=1_000)
    max_reply_bytes: int = Field(default=8_000_000, ge=1_000)
    public_url: str | None = Field(default=None, pattern=r"^https?://[^\s/?#]+[^\s?#]*$")
    a2a_card: Literal["1.0", "0.3"] = "1.0"
    push_allow: Annotated[tuple[str, ...], NoDecode] = ()
    agents_allow: Annotated[tuple[str, ...], NoDecode] = ()
    """Where agents may register themselves although it is not public, on a service that others can reach."""
    probe_seconds: float = Field(default=10, ge=0)
    """How often an endpoint that matters is asked for its card; 0 for never."""
    log_level: LogLevel = "info"

    @property
    def audit_secret(self) -> bytes:
        """The `audit_key` as hashes take it; empty if there is none."""
        return self.audit_key.get_secret_value().encode() if self.audit_key else b""

    @property
    def archive_dir(self) -> Path | None:
        """Where sealed trails go when their calls are over; None for nowhere."""
        if self.archive == "off":
            return None
        return Path(self.archive) if self.archive else self.data_dir / "archive"

    @field_validator("push_allow", "agents_allow", "flows", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [entry.strip() for entry in value.split(",") if entry.strip()] if isinstance(value, str) else value

    @field_validator("push_allow", "agents_allow")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        from server.a2a.push_guard import PushGuard

        # raises ValueError for an entry that is neither a host nor a network
        PushGuard(value, setting=f"FLOWS_{info.field_name}".upper())
        return value


def read_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: naming each variable that makes no sense.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_explained(detail) for detail in error.errors())) from error


def _explained(detail: Mapping[str, Any]) -> str:
    name = str(detail["loc"][0])
    variable = name if name.isupper() else f"FLOWS_{name.upper()}"
    return f"{variable}: {detail['msg']}"
