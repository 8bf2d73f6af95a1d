"""Models of YAML files that people write: unknown keys, doubled keys and wrong values are named, never ignored."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Hashable
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from marspipe.errors import InputError

Model = TypeVar("Model", bound="StrictModel")


class StrictModel(BaseModel):
    """A section of a YAML file: immutable, finite numbers only, unknown keys refused with the nearest valid name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_misplaced_keys(cls, content: Any) -> Any:
        if isinstance(content, dict):
            unknown = [key for key in content if key not in cls.model_fields]
            if unknown:
                raise PydanticCustomError("named_key", "{message}", {"message": _unknown(cls, str(unknown[0]))})
            for key, value in content.items():
                # YAML's yes and no would otherwise pass as the numbers 1 and 0.
                if isinstance(value, bool) and cls.model_fields[key].annotation is not bool:
                    message = f"{key} must not be true or false, got {value}"
                    raise PydanticCustomError("named_key", "{message}", {"message": message})
        return content


def _unknown(model: type[BaseModel], key: str) -> str:
    valid = list(model.model_fields)
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"valid keys are {', '.join(valid)}"
    return f"unknown key {key!r}; {hint}"


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which would silently keep the last of two equal keys, with doubled keys refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(text: str, origin: str, error_type: type[InputError], noun: str) -> dict[str, Any]:
    """Return the mapping written in a YAML text; ``error_type`` naming the origin if it is not one."""
    try:
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise error_type(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise error_type(f"{origin}: a {noun} must be a mapping of keys, got {reprlib.repr(content)}")
    return content


def validate(content: dict[str, Any], origin: str, model: type[Model], error_type: type[InputError]) -> Model:
    """Return a mapping as a model.

    Raises
    ------
    InputError
        Of ``error_type``; it names the origin and, for every fault, the key path, the value and what was expected.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise error_type(f"{origin}: {'; '.join(explain(error))}") from error


def explain(error: ValidationError) -> list[str]:
    """Return one sentence per fault: key path, what was expected, the value found."""
    sentences = []
    faults = error.errors()
    for item in faults:
        depth = len(item["loc"])
        if item["type"] == "too_short" and any(o["loc"][:depth] == item["loc"] != o["loc"] for o in faults):
            continue  # a list counts its faulty items as absent
        # Names of union members are pydantic's own; they stand in angle brackets here.
        key = ".".join(str(part) for part in item["loc"] if not str(part).startswith("<"))
        place = f"{key}: " if key else ""
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            sentences.append(f"{place}this key is missing")
        elif item["type"] in ("named_key", "value_error"):
            sentences.append(place + message)
        else:
            sentences.append(f"{place}{message[:1].lower()}{message[1:]}, got {reprlib.repr(item['input'])}")
    return sentences
