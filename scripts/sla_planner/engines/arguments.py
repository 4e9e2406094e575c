"""The command line of an engine, read, edited and written back.

    given      a list of arguments; or a shell line: `sh -c LINE` as a list, or LINE alone in a list of one
    edited     the flags that are set or dropped; a flag keeps its own spelling (`-tp`, `--tp=4`); given twice it is left once
    kept       everything else, of a shell line byte for byte: quoting, environment, `&&`, pipes, continued lines

In a shell line the engine's command is the one that names a program of the engine (`python3 -m dynamo.vllm`); without one, the one with the most
flags. New flags go to the end of that command. A list without a program consists of arguments only. No variable is expanded.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

SERVED_NAME = "--served-model-name"

_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh"})
_SHELL_COMMAND_FLAG = re.compile(r"-[a-z]*c")
_GAP = re.compile(r"(?:[ \t\r]|\\\r?\n|(?<![^\s;])#[^\n]*)+")
_REDIRECTION = re.compile(r"\d*(?:<<<|<<-?|<&|<>|<(?!\())|\d*(?:>>|>&|>\||>(?!\())|&>>?")
_CONTROL = re.compile(r"&&|\|\||;;|\|&|[<>]\(|[;&|()\n]")
_PLAIN = re.compile(r"[^ \t\r\n\\'\"$`;&|()<>]+")


@dataclass(frozen=True, slots=True)
class _Word:
    """`before`: what stands between the word before and this one."""

    raw: str
    value: str
    before: str = " "


class CommandLine:
    """The arguments of one engine. Edits in place; `written()` gives them in the form in which they were given."""

    def __init__(self, given: Sequence[str], program: re.Pattern[str]) -> None:
        """`program` matches the word that names the engine's program, or it and the next (`vllm serve`)."""
        self._given = list(given)
        self._shell_at = _shell_line_at(self._given)
        if self._shell_at is None:
            words = [_Word(argument, argument, "") for argument in self._given]
            start = _arguments_start(self._given, program)
            self._head_words, self._words = words[:start], words[start:]
        else:
            self._head, self._words, self._tail = _split(self._given[self._shell_at], program)

    def written(self) -> list[str]:
        if self._shell_at is None:
            return [word.value for word in (*self._head_words, *self._words)]
        line = self._head + "".join(word.before + word.raw for word in self._words) + self._tail
        return [*self._given[: self._shell_at], line, *self._given[self._shell_at + 1 :]]

    def has(self, *names: str) -> bool:
        return bool(self._places(names))

    def starting_with(self, prefix: str) -> str | None:
        """The first argument that starts with `prefix`."""
        return next((word.value for word in self._words if word.value.startswith(prefix)), None)

    def value(self, *names: str) -> str | None:
        """Of the last of `names`, which wins in the engine too. None when there is none, or it has no value."""
        places = self._places(names)
        if not places:
            return None
        at = places[-1]
        _, equals, inline = self._words[at].value.partition("=")
        if equals:
            return inline
        return self._words[at + 1].value if self._has_value(at) else None

    def set(self, names: Sequence[str], value: str | int) -> None:
        """One of `names`, which are spellings of one flag, with `value`; the first spelling where the flag is new."""
        text = str(value)
        places = self._places(names)
        if not places:
            self._append(names[0])
            self._append(text)
            return
        for at in reversed(places[1:]):
            self._remove(at, self._has_value(at))
        at = places[0]
        flag, equals, inline = self._words[at].value.partition("=")
        if equals:
            if inline != text:
                self._words[at] = self._rewritten(self._words[at], f"{flag}={text}")
        elif not self._has_value(at):
            self._words.insert(at + 1, self._new(text))
        elif self._words[at + 1].value != text:
            self._words[at + 1] = self._rewritten(self._words[at + 1], text)

    def set_model(self, names: Sequence[str], path: str, model: str) -> None:
        """The weights at `path`, served as `model`: said where the two differ, or where a name is given already."""
        self.set(names, path)
        if path != model or self.has(SERVED_NAME):
            self.set((SERVED_NAME,), model)

    def switch_on(self, *names: str) -> None:
        """A flag without a value; `names` are its spellings."""
        places = self._places(names)
        if not places:
            self._append(names[0])
        for at in reversed(places[1:]):
            self._remove(at, False)

    def switch_off(self, *names: str) -> None:
        """Remove flags that take no value."""
        for at in reversed(self._places(names)):
            self._remove(at, False)

    def drop(self, *names: str) -> None:
        """Remove flags together with their values."""
        for at in reversed(self._places(names)):
            self._remove(at, self._has_value(at))

    def _places(self, names: Sequence[str]) -> list[int]:
        return [at for at, word in enumerate(self._words) if _flag(word.value) in names]

    def _has_value(self, at: int) -> bool:
        """Whether the word after the flag at `at` is its value."""
        return "=" not in self._words[at].value and at + 1 < len(self._words) and not self._words[at + 1].value.startswith("--")

    def _append(self, value: str) -> None:
        self._words.append(self._new(value))

    def _new(self, value: str) -> _Word:
        return _Word(value, value, "") if self._shell_at is None else _Word(shlex.quote(value), value)

    def _rewritten(self, word: _Word, value: str) -> _Word:
        return replace(self._new(value), before=word.before)

    def _remove(self, at: int, with_value: bool) -> None:
        for _ in range(2 if with_value else 1):
            between = self._words.pop(at).before
            if _GAP.sub("", between):  # a redirection stood there
                if at < len(self._words):
                    self._words[at] = replace(self._words[at], before=between.rstrip() + self._words[at].before)
                else:
                    self._tail = between.rstrip() + self._tail


def _flag(word: str) -> str:
    """`--max_num_seqs=4` -> `--max-num-seqs`: engines take both."""
    name = word.partition("=")[0]
    return name.replace("_", "-") if name.startswith("--") else name


def _shell_line_at(given: Sequence[str]) -> int | None:
    """Where in `given` a shell line stands."""
    if len(given) == 1 and re.search(r"\s", given[0].strip()):
        return 0
    for at in range(1, len(given)):
        if _SHELL_COMMAND_FLAG.fullmatch(given[at - 1]) and (at == 1 or PurePosixPath(given[0]).name in _SHELLS or _SHELLS & set(given[: at - 1])):
            return at
    return None


def _arguments_start(words: Sequence[str], program: re.Pattern[str]) -> int:
    """Index of the first argument: after the word that names the program; 0 when none does."""
    pairs = zip(words, [*words[1:], ""], strict=False)
    return next((at + 1 for at, (word, after) in enumerate(pairs) if program.fullmatch(word) or program.fullmatch(f"{word} {after}")), 0)


def _split(line: str, program: re.Pattern[str]) -> tuple[str, list[_Word], str]:
    """What stands before the engine's arguments, they, and what comes after."""
    commands = [command for command in _commands(line) if command]
    if not commands:
        return line, [], ""
    starts = [_arguments_start([word[2] for word in command], program) for command in commands]
    flags = [sum(value.startswith("--") for _, _, value in command) for command in commands]
    chosen = max(range(len(commands)), key=lambda at: (starts[at] > 0, flags[at], at))
    command, start = commands[chosen], starts[chosen]
    if not start and not command[0][2].startswith("-"):
        start = 1  # a program that we do not know
    end = command[start - 1][1] if start else 0
    head, words = line[:end], []
    for begin, stop, value in command[start:]:
        words.append(_Word(line[begin:stop], value, line[end:begin]))
        end = stop
    return head, words, line[end:]


def _commands(line: str) -> Iterator[list[tuple[int, int, str]]]:
    """The simple commands of a shell line: of each word where it begins, where it ends, and its value without quotes."""
    words: list[tuple[int, int, str]] = []
    at, target = 0, False  # target: the next word is that of a redirection
    while at < len(line):
        if gap := _GAP.match(line, at):
            at = gap.end()
        elif redirection := _REDIRECTION.match(line, at):
            at, target = redirection.end(), True
        elif control := _CONTROL.match(line, at):
            yield words
            words, at, target = [], control.end(), False
        else:
            end, value = _word(line, at)
            if not target:
                words.append((at, end, value))
            at, target = max(end, at + 1), False
    yield words


def _word(line: str, at: int) -> tuple[int, str]:
    """End and value of the word that begins at `at`."""
    value = []
    while at < len(line):
        character = line[at]
        if plain := _PLAIN.match(line, at):
            value.append(plain[0])
            at = plain.end()
        elif character == "\\":
            value.append("" if line[at + 1 : at + 2] == "\n" else line[at + 1 : at + 2])
            at += 2
        elif character == "'":
            end = _closing(line, at + 1, "'")
            value.append(line[at + 1 : end])
            at = end + 1
        elif character == '"':
            end = _closing_double(line, at + 1)
            value.append(re.sub(r'\\(["\\$`\n])', lambda match: match[1].strip("\n"), line[at + 1 : end]))
            at = end + 1
        elif character in "$`":
            end = _expansion_end(line, at)
            value.append(line[at:end])
            at = end
        else:
            break
    return at, "".join(value)


def _closing(line: str, at: int, quote: str) -> int:
    end = line.find(quote, at)
    return len(line) if end < 0 else end


def _closing_double(line: str, at: int) -> int:
    while at < len(line) and line[at] != '"':
        at = _expansion_end(line, at) if line[at] in "$`" else at + (2 if line[at] == "\\" else 1)
    return min(at, len(line))


def _expansion_end(line: str, at: int) -> int:
    """Of `$NAME`, `${...}`, `$(...)` or a backquoted command: it is one piece whatever is in it."""
    if line[at] == "`":
        return min(_closing(line, at + 1, "`") + 1, len(line))
    pair = {"(": ")", "{": "}"}.get(line[at + 1 : at + 2])
    if pair is None:
        return at + 1
    depth, opening = 0, line[at + 1]
    for end in range(at + 1, len(line)):
        depth += (line[end] == opening) - (line[end] == pair)
        if depth == 0:
            return end + 1
    return len(line)
