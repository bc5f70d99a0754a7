"""Rules for other keys, such as `encoder.*=enc.*`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from convinspect.errors import CannotConvert, Option, Wording
from convinspect.keys.wrappers import clean_names


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern of old names, and the new name for each.

    Attributes:
        text: As it was typed.
        pattern: Of old names: a group for each `*`, and a last one for what lies below a module.
        new: The literal parts of the new name, one more than there are `*`; what these matched goes between.
        front: What stands before the `*` of a rule that has one only, at its end; None for all others.
    """

    text: str
    pattern: re.Pattern[str]
    new: tuple[str, ...]
    front: str | None = None

    def apply(self, name: str) -> str | None:
        """The new name, or None when the pattern does not match this one."""
        if self.front is not None:
            # Most rules are such, and the expression takes three times as long to say the same.
            rest = name[len(self.front) :]
            return f"{self.new[0]}{rest}{self.new[1]}" if name.startswith(self.front) else None
        match = self.pattern.fullmatch(name)
        if match is None:
            return None
        # Of a whole module's name nothing is left for what lies below it.
        return "".join([text + part for text, part in zip(self.new, match.groups(""), strict=True)])


_EXAMPLE = Wording("write ", Option("rename", "encoder.*=enc.*"))


def parse_rule(text: str) -> Rule:
    """A rule OLD=NEW; OLD is a name of a tensor or a module, `*` stands for anything.

    Raises:
        CannotConvert: It is malformed.
    """
    old, equals, new = text.partition("=")
    rename = Option("rename", None)
    if not equals or not old or not new or "=" in new:
        raise CannotConvert(Wording(rename, f" {text!r} is not OLD=NEW"), _EXAMPLE)
    if old.count("*") != new.count("*"):
        raise CannotConvert(
            Wording(rename, f" {text!r}: what each * stands for is carried over, so both sides need as many of them"),
            _EXAMPLE,
        )
    pattern = "(.*)".join(re.escape(part) for part in old.split("*"))
    front = old[:-1] if old.endswith("*") and old.count("*") == 1 else None
    return Rule(text, re.compile(pattern + r"(\..*)?", re.DOTALL), tuple(new.split("*")), front)


def new_keys(keys: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The keys that renaming by these rules gives, in order.

    Raises:
        CannotConvert: A rule is malformed, or two keys would become one.
    """
    return apply_rules(list(keys), [parse_rule(text) for text in texts]).keys


class Renamed(NamedTuple):
    """New keys, in the order of the old ones, and the rules that made them.

    Attributes:
        keys: One for each old key; unchanged where no rule matches.
        used: Texts of the rules that matched some key.
    """

    keys: list[str]
    used: frozenset[str]


def apply_rules(keys: list[str], rules: Sequence[Rule]) -> Renamed:
    """Rename keys; the first rule that matches a key counts.

    Raises:
        CannotConvert: Two keys would become one.
    """
    used: set[str] = set()
    if rules and rules[0].front == "":
        # A prefix for all, as wrappers put it: it is the first rule that matches, whatever the others say.
        before, after = rules[0].new
        new = [f"{before}{key}{after}" for key in keys]
        _check_distinct(keys, new)
        return Renamed(new, frozenset([rules[0].text] if keys else ()))
    new = []
    for key, name in zip(keys, clean_names(keys), strict=True):
        renamed = _renamed(key, name, rules)
        if renamed is not None:
            used.add(renamed[1].text)
        new.append(key if renamed is None else renamed[0])
    _check_distinct(keys, new)
    return Renamed(new, frozenset(used))


def _check_distinct(keys: Sequence[str], new: Sequence[str]) -> None:
    """Refuse a renaming that gives two tensors the same key.

    Raises:
        CannotConvert: Two keys would become one.
    """
    if len(set(new)) == len(new):
        return
    old: dict[str, str] = {}
    for key, name in zip(keys, new, strict=True):
        if name in old:
            raise CannotConvert(f"{old[name]!r} and {key!r} would both be named {name!r}", "rename one differently")
        old[name] = key


def _renamed(key: str, name: str, rules: Iterable[Rule]) -> tuple[str, Rule] | None:
    """The new key of a tensor that is stored as `key` and shown as `name`, and the rule; None where none matches."""
    for rule in rules:
        new = rule.apply(key)
        # A rule may match the name as shown; wrappers' levels before it are then kept.
        if new is None and key.endswith(name) and (shown := rule.apply(name)) is not None:
            new = key.removesuffix(name) + shown
        if new is not None:
            return new, rule
    return None
