"""The same virsh commands at a node's own socket and at the endpoint: run, made comparable, compared."""

from __future__ import annotations

import difflib
import re
import shlex
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.stock import Outcome, Virsh, eventually

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
RULES = (
    (UUID, "UUID"),
    (re.compile(r"/dev/pts/\d+"), "PTY"),
    (re.compile(r"\bdomain-\d+-"), "domain-ID-"),
    (re.compile(r'"libvirt-\d+"'), '"libvirt-N"'),
    (re.compile(r"[^\r\n]*: \[ *\d{1,2} %\][\r\n]*"), ""),
    # A look at the job may have found all done before the job was over: then it is said twice.
    (re.compile(r"([^\r\n]*: \[100 %\])([\r\n]+\1)+"), r"\1"),
    (re.compile(r"(<domain [^>]*?) id='\d+'"), r"\1 id='ID'"),
    (re.compile(r"^(Id:\s+)\d+$", re.MULTILINE), r"\1ID"),
    (re.compile(r"<creationTime>\d+</creationTime>"), "<creationTime/>"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?( [+-]\d{4})?"), "TIME"),
    (re.compile(r"\bvnet\d+ *"), "vnetN "),
    (re.compile(r"(port='|:)59\d\d\b"), r"\1PORT"),
    (re.compile(r"[ \t]+$", re.MULTILINE), ""),
)
"""What differs between two runs on one host."""

NUMBER = re.compile(r"\d+(\.\d+)?")
FLAGS = re.compile(r"^([nsxw]+): ")


@dataclass(frozen=True)
class Step:
    """One virsh command, `sleep SECONDS`, or `off`: it waits until the domain is.  n: numbers are not
    compared, s: order of lines is not, x: only the exit code is, w: repeated up to 20 s until it succeeds."""

    line: str
    flags: str

    @classmethod
    def parse(cls, text: str) -> Step:
        """`n: domstats {d}`."""
        found = FLAGS.match(text)
        return cls(text[found.end() :], found.group(1)) if found else cls(text, "")


@dataclass(frozen=True)
class Side:
    """A URI, the domain's name there and a directory for its disks."""

    virsh: Virsh
    name: str
    directory: Path
    uuid: str

    def run(self, step: Step) -> Outcome:
        """Run the step; `{d}`, `{dir}` and `{uuid}` in it are the side's own."""
        line = step.line.replace("{d}", self.name).replace("{dir}", str(self.directory))
        words = shlex.split(line.replace("{uuid}", self.uuid))
        if words[0] == "sleep":
            time.sleep(float(words[1]))
            return Outcome(0, "", "")
        if words[0] == "off":
            eventually(lambda: self.virsh("domstate", self.name) == "shut off", 60, f"{self.name} shut off")
            return Outcome(0, "", "")
        end = time.monotonic() + 20
        while True:
            outcome = self.virsh.run(*words)
            if "w" not in step.flags or outcome.code == 0 or time.monotonic() > end:
                return self._normal(outcome, step)
            time.sleep(0.2)

    def _normal(self, outcome: Outcome, step: Step) -> Outcome:
        return Outcome(outcome.code, *(self._text(text, step) for text in (outcome.out, outcome.err)))

    def _text(self, text: str, step: Step) -> str:
        if "x" in step.flags:
            return ""
        text = text.replace(str(self.directory), "DIR")
        for pattern, instead in RULES:
            text = pattern.sub(instead, text)
        if "n" in step.flags:
            text = NUMBER.sub("N", text)
            text = re.sub(r"[ \t]+", " ", text)
            text = re.sub(r"-{3,}", "---", text)
        if "s" in step.flags:
            text = "\n".join(sorted(text.splitlines()))
        return text


def difference(step: Step, node: Outcome, endpoint: Outcome) -> str:
    """Empty when both said the same, else what a reader needs."""
    if node == endpoint:
        return ""
    parts = [f"{step.line}: exit code {node.code} at the node, {endpoint.code} at the endpoint"]
    for stream in ("out", "err"):
        theirs, ours = getattr(node, stream).splitlines(), getattr(endpoint, stream).splitlines()
        parts += difflib.unified_diff(theirs, ours, f"node {stream}", f"endpoint {stream}", lineterm="", n=1)
    return "\n".join(parts)


def steps(text: str) -> list[Step]:
    """One step for each line that is not empty."""
    return [Step.parse(line.strip()) for line in text.splitlines() if line.strip()]


FORM = re.compile(r"^(error: [A-Za-z ]+)(: .*)?$", re.MULTILINE)
TOLD_AT = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+[+-]\d{4}", re.MULTILINE)


def form(outcome: Outcome) -> Outcome:
    """What the code says, without the sentence."""
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    return Outcome(outcome.code, outcome.out, "\n".join(FORM.sub(r"\1", line) for line in lines))


def wrong(
    scene: Iterable[Step], theirs: Iterable[Outcome], ours: Iterable[Outcome], known: Collection[str]
) -> str:
    """All differences but those of lines that are known to differ."""
    rows = zip(scene, theirs, ours, strict=True)
    return "\n".join(difference(*row) for row in rows if row[1] != row[2] and row[0].line not in known)


def write_files(files: Mapping[str, str], directory: Path, name: str, uuid: str) -> None:
    """A scene's documents; `{d}` and `{uuid}` in them are the side's own."""
    directory.mkdir()
    for file, text in files.items():
        (directory / f"{file}.xml").write_text(text.replace("{d}", name).replace("{uuid}", uuid))


def said_by_virsh(*words: str) -> str:
    """Its help."""
    return subprocess.run(["virsh", "-q", *words], capture_output=True, text=True, check=True).stdout


def commands_of(group: str) -> list[str]:
    """All commands of one of virsh's groups."""
    return [line.split()[0] for line in said_by_virsh("help", group).splitlines() if line[:4] == "    "]


def without_a_step(group: str, scenes: Iterable[str], more: Iterable[str] = ()) -> list[str]:
    """Commands and options of a group that stand in no line of any scene.  more: lines beside those."""
    lines = [f"{step.line} " for scene in scenes for step in steps(scene)] + [f"{line} " for line in more]
    missing = []
    for command in commands_of(group):
        options = set(re.findall(r"--[A-Za-z-]+", said_by_virsh("help", command).split("OPTIONS")[-1]))
        used = [line for line in lines if line.startswith(f"{command} ")]
        missing += [f"{command} {one}" for one in sorted(options) if not any(f"{one} " in at for at in used)]
        missing += [] if used else [command]
    return missing


def heard(virsh: Virsh, listening: Iterable[str], meanwhile: Iterable[str], seconds: int) -> list[str]:
    """Lines that a listening command prints while others are done."""
    command = ["virsh", "-c", virsh.uri, *listening, "--timeout", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        time.sleep(1)  # a registration has no visible sign
        for line in meanwhile:
            virsh(*line.split())
        out, _ = process.communicate(timeout=40)
    return TOLD_AT.sub("TIME", out).splitlines()
