"""User and password, or a bearer token: from the environment or a file, never from a command line."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, model_validator

from marspipe.errors import InputError

USER, PASSWORD, TOKEN = "MARSPIPE_PACS_USER", "MARSPIPE_PACS_PASSWORD", "MARSPIPE_PACS_TOKEN"


class Credentials(BaseModel):
    """What a DICOMweb service asks for: HTTP basic (RFC 7617), or a bearer token (RFC 6750).

    Attributes
    ----------
    user : str or None
        Goes with a password.
    password, token : SecretStr or None
        Shown as asterisks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    user: str | None = None
    password: SecretStr | None = None
    token: SecretStr | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Credentials:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.user is not None and self.token is not None:
            raise ValueError("give user and password, or a token, not both")
        if self.user is not None and ":" in self.user:
            raise ValueError("a user has no colon")
        return self

    def __bool__(self) -> bool:
        return self.user is not None or self.token is not None


def credentials_of_environment(environment: Mapping[str, str]) -> Credentials:
    """Return the credentials that environment variables hold; empty ones count as not given.

    Raises
    ------
    InputError
        If they do not go together.
    """
    names = {"user": USER, "password": PASSWORD, "token": TOKEN}
    given = {key: environment[name] for key, name in names.items() if environment.get(name)}
    return _validated(given, f"{USER}, {PASSWORD}, {TOKEN}")


def load_credentials(path: Path) -> Credentials:
    """Read credentials from a YAML file: ``user`` and ``password``, or ``token``.

    Raises
    ------
    InputError
        If it cannot be read, others may read it, or it holds something else. Values are never repeated.
    """
    try:
        with path.open("rb") as file:
            # Of the very file that is read, not of what its name may stand for later.
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise InputError(f"{path}: others may read these credentials; chmod 600 {path}")
            text = file.read().decode("utf-8")
        # The base loader leaves scalars as text: a password 007 stays so.
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the credentials cannot be read: {getattr(error, 'strerror', 'no text')}") from error
    except yaml.YAMLError:
        # Its text shows the line, which may be the one with the password.
        raise InputError(f"{path}: the credentials are not valid YAML") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: credentials are a mapping of user and password, or of token")
    return _validated(content, str(path))


def _validated(content: Mapping[str, str], origin: str) -> Credentials:
    try:
        return Credentials.model_validate(dict(content))
    except ValidationError as error:
        problems = "; ".join(
            ": ".join([*map(str, one["loc"][:1]), one["msg"].removeprefix("Value error, ")]) for one in error.errors()
        )
        # The cause would carry the values into a traceback.
        raise InputError(f"{origin}: {problems}") from None
