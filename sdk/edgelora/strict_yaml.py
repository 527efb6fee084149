"""Reading YAML that a person wrote, with nothing read silently in another way than it looks."""

from __future__ import annotations

from typing import Any

import yaml


class NotYaml(ValueError):
    """The text is refused; says where and why."""


def read_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        NotYaml: It is malformed, or gives a key twice.
    """
    return _read(text, _UniqueKeys)


def read_plain_yaml(text: str) -> Any:
    """The content of a YAML text that says everything where it stands: no aliases and no merge keys.

    Raises:
        NotYaml: It is malformed, gives a key twice, or holds one of these.
    """
    return _read(text, _Plain)


def _read(text: str, loader: type[yaml.SafeLoader]) -> Any:
    try:
        return yaml.load(text, loader)
    # The others: PyYAML reads 2024-13-45 as a date, and takes a tag such as !!bool at its word.
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise NotYaml(str(error)) from error


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML would take the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _refused(f"the key {key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Plain(_UniqueKeys):
    """One that refuses aliases and merge keys as well."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            place = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # the stubs lack its type
            raise _refused("aliases are not allowed here", place)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise _refused("merge keys are not allowed here", key.start_mark)
        super().flatten_mapping(node)


def _refused(problem: str, place: yaml.Mark) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, place)
