"""What every metrics.json consists of, and the records of where and when a result was made."""

from datetime import datetime, timezone

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """A part of metrics.json; a trailing underscore keeps a key from a word of Python."""

    model_config = ConfigDict(
        extra='forbid',
        frozen=True,
        populate_by_name=True,
        alias_generator=lambda name: name.rstrip('_'),
    )


class Machine(Record):
    """Where it ran."""

    cpu: str
    cpus: int = Field(description='logical ones that the process may use')
    memory_gib: float
    os: str


class Environment(Record):
    """The machine and the software that a result was made with."""

    machine: Machine
    versions: dict[str, str] = Field(description='of Python and of the distributions that matter')
    git_hash: str | None = Field(
        description="commit of the checkout, '-dirty' appended where files differ; null outside "
        'of a checkout'
    )


def utc_now() -> str:
    """Return the time in UTC, to the second, as results and logs hold it."""
    return datetime.now(timezone.utc).isoformat(timespec='seconds')
