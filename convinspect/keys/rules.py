"""Rules for other keys, such as `encoder.*=enc.*`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from convinspect.errors import CannotConvert
from convinspect.keys.wrappers import clean_names


@dataclass(frozen=True, slots=True)
class Rule:
    text: str
    pattern: re.Pattern[str]
    new: tuple[str, ...]
    """What stands between the parts that are carried over."""

    def apply(self, name: str) -> str | None:
        """The new name, or None when the rule does not mean this one."""
        match = self.pattern.fullmatch(name)
        if match is None:
            return None
        *carried, below = match.groups()
        return "".join(text + part for text, part in zip(self.new, [*carried, below or ""], strict=True))


def parse_rule(text: str) -> Rule:
    old, equals, new = text.partition("=")
    if not equals or not old or not new or "=" in new:
        raise CannotConvert(f"--rename {text!r} is not OLD=NEW", "write --rename 'encoder.*=enc.*'")
    if old.count("*") != new.count("*"):
        raise CannotConvert(
            f"--rename {text!r}: what each * stands for is carried over, so both sides need as many of them",
            "write --rename 'encoder.*=enc.*'",
        )
    pattern = "(.*)".join(re.escape(part) for part in old.split("*"))
    return Rule(text, re.compile(pattern + r"(\..*)?", re.DOTALL), tuple(new.split("*")))


def new_keys(keys: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The keys that `--rename` with these rules gives, in order.

    Raises:
        CannotConvert: A rule is malformed, or two keys would become one.
    """
    return apply_rules(list(keys), [parse_rule(text) for text in texts], set())


def apply_rules(keys: list[str], rules: Sequence[Rule], used: set[str]) -> list[str]:
    new = [_renamed(key, name, rules, used) for key, name in zip(keys, clean_names(keys), strict=True)]
    if len(set(new)) != len(new):
        seen: dict[str, str] = {}
        for key, name in zip(keys, new, strict=True):
            if name in seen:
                raise CannotConvert(
                    f"{seen[name]!r} and {key!r} would both be named {name!r}", "rename one differently"
                )
            seen[name] = key
    return new


def _renamed(key: str, name: str, rules: Iterable[Rule], used: set[str]) -> str:
    """The new key of a tensor that is stored as `key` and shown as `name`."""
    for rule in rules:
        new = rule.apply(key)
        if new is None and key.endswith(name) and (shown := rule.apply(name)) is not None:
            new = key.removesuffix(name) + shown
        if new is not None:
            used.add(rule.text)
            return new
    return key
