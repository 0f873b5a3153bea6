"""A workflow document as its author writes it: steps, each with the type of agent that does it."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from nodes.spec import Seconds

MOST_STEPS = 1_000
_LONGEST_NAME = 200


def _none_is_left_out(value: Any) -> Any:
    return {} if value is None else value


def _none_is_nothing(value: Any) -> Any:
    return [] if value is None else value


def _one_line(value: str) -> str:
    if not value.strip():
        raise ValueError("it is blank; give it a name")
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value):
        raise ValueError("it holds a control character or half a character; send text")
    return value


Text = Annotated[str, Field(min_length=1, max_length=_LONGEST_NAME)]
Mapping_ = Annotated[dict[Text, Text], Field(max_length=200), BeforeValidator(_none_is_left_out)]


class Retry(BaseModel):
    """How often a step is tried: one of the two."""

    model_config = ConfigDict(extra="forbid", strict=True)

    max_attempts: int | None = Field(default=None, ge=1, le=10, description="How often it is tried in all.")
    max_retries: int | None = Field(default=None, ge=0, le=9, description="How often it is tried again.")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.max_attempts is None) == (self.max_retries is None):
            raise ValueError("write either max_attempts or max_retries")
        return self

    @property
    def attempts(self) -> int:
        """How often it is tried in all."""
        return self.max_attempts or (self.max_retries or 0) + 1


class WorkflowStep(BaseModel):
    """One step of a workflow."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text = Field(description="The step's name; its agent gets it as `task_type`.")
    agent_type: Text = Field(description="The type of agent that does it, or an agent's name.")
    description: str = Field(default="", max_length=10_000)
    input_mapping: Mapping_ = Field(
        default_factory=dict, description="What the agent gets: its fields, each with the name of what is in it."
    )
    output_mapping: Mapping_ = Field(
        default_factory=dict, description="What is kept of the answer: its fields, each with the name to keep."
    )
    depends_on: Annotated[list[Text], Field(max_length=MOST_STEPS), BeforeValidator(_none_is_nothing)] = Field(
        default_factory=list, description="The steps that come before it; steps without may run at once."
    )
    condition: str | None = Field(
        default=None,
        max_length=2_000,
        description="The step is skipped unless this is true: `sentiment == positive and score > 0.5`. "
        "A word that is no name of the workflow is text.",
    )
    timeout: Seconds | None = Field(default=None, description="How long one attempt may take: seconds, or `15s`.")
    retry: int | Retry | None = Field(default=None, description="How often it is tried again if it fails.")
    effect: Literal["read", "write"] | None = Field(
        default=None,
        description="`write` if the agent moves money or changes records; left out, what flows say of it.",
    )
    on_error: Literal["fail", "continue"] = Field(
        default="fail", description="Whether a step that fails ends the execution, or it goes on without."
    )

    @field_validator("retry")
    @classmethod
    def _few(cls, retry: int | Retry | None) -> int | Retry | None:
        if isinstance(retry, int) and not 0 <= retry <= 9:
            raise ValueError("a step is tried again 9 times at most; write a number from 0 to 9")
        return retry

    @field_validator("name", "agent_type")
    @classmethod
    def _named(cls, value: str) -> str:
        return _one_line(value)

    @property
    def attempts(self) -> int | None:
        """How often it is tried in all; None if the step does not say."""
        if isinstance(self.retry, Retry):
            return self.retry.attempts
        return None if self.retry is None else self.retry + 1

    @property
    def only_if(self) -> str | None:
        """Its condition, unless that is blank."""
        return (self.condition or "").strip() or None


class Workflow(BaseModel):
    """A workflow: steps, whose order follows from what they depend on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text
    description: str = Field(default="", max_length=10_000)
    version: int = Field(default=1, ge=1)
    steps: list[WorkflowStep] = Field(min_length=1, max_length=MOST_STEPS)

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        return _one_line(value)
