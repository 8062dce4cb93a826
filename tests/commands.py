#!/usr/bin/env python3
"""Every command that README.md and docs/operations.md give is run by a test, or the document says that none does.

    tests/commands.py            fails with the commands of which neither is true
    tests/commands.py --list     each command, and where it is run

A command is run by a test if one function of it names the same verbs, next to each other, and all the same flags;
values may differ. That a word is there is no proof that it is run; that one is not there is proof that it is not. What a test does by a way that this does not see stands in MARKED, with the file that has each of
its words. A line of a document that no test can run says so in a comment: `# not run by a test: WHY`. Commands of the
text, between backticks, are looked at by their verbs and flags as those in blocks are.
"""

import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "docs/operations.md"]
TESTS = ["tests/tests/**/*.rs", "tests/src/**/*.rs", "*/tests/**/*.rs", "tests/run", "tests/rescue_test.py"]
UNTESTED = "not run by a test:"

# How many words say what is done; the rest are values.
PROGRAMS = {"nsctl": 1, "helm": 1, "kubectl": 1, "docker-compose": 1, "systemctl": 1}
GROUPS = {
    ("nsctl", name): 2
    for name in ["agent", "schedule", "token", "alert", "retention", "repository", "config", "debug"]
}
GROUPS |= {("nsctl", "repository", "key"): 3}
GROUPS |= {("kubectl", verb): 2 for verb in ["create", "label", "delete"]}
# Programs of ours that have no verbs: as tests name them, with their flags.
SCRIPTS = ["/scripts/backup-recovery.sh", "deploy/image/build", "deploy/static-programs", "deploy/systemd/install",
           "tests/run", "rescue.py", "neurashield-controller", "neurashield-agent", "chown"]
# What stands before a command and is none.
PREFIXES = {"sudo", "!"}

# verbs and flags → the file with each of its words.
MARKED = {
    # The helper of these tests adds `repository` and the place.
    "repository restore --repository --recovery-key-file --timestamp --to": "tests/tests/disaster.rs",
    "repository check --repository --recovery-key-file --depth": "tests/tests/disaster.rs",
    "repository rebuild --repository --state --recovery-key-file": "tests/tests/disaster.rs",
    "repository rebuild --repository --state --recovery-key-file --plan": "tests/tests/state_lost.rs",
    # The chart's job, which tests/tests/kubernetes.rs runs.
    "repository rebuild --state --replace --key-file": "deploy/helm/neurashield-backup/templates/rebuild.yaml",
    "repository rebuild": "tests/tests/state_lost.rs",
    "repository check --repair --give-up --key-file": "tests/tests/repair.rs",
}
HELPERS = "tests/src/system.rs"
# Whose words are common ones: only tests of theirs count.
WHERE = {"docker-compose": "deploy.rs", "kubectl": "kubernetes", "helm": "kubernetes"}
# Hints in the text, for somebody's own cluster or host.
HINTS = ["kubectl rollout", "kubectl scale", "systemctl edit"]


STRING = re.compile(r'r#"(.*?)"#|"((?:[^"\\]|\\.)*)"|\'(?:[^\'\\]|\\.)\'', re.S)
WORD = re.compile(r"[^\s'`;|&(),]+")


def functions(text, is_rust):
    """The words of the strings of each function; of another language, of each line."""
    if not is_rust:
        return [re.findall(r"[\w./:=-]+", line) for line in text.splitlines()]
    text = re.sub(r"(?m)^\s*//.*$", "", text)
    found = []
    for body in re.split(r"(?m)^ {0,4}(?:pub(?:\(\w+\))? )?(?:async )?fn ", text):
        strings = (one[0] or one[1] for one in STRING.findall(body))
        found.append([word for said in strings for word in WORD.findall(re.sub(r"\\\n\s*", "", said))])
    return found


def plain(line):
    """A line without its comment, cut into commands; the comment."""
    code, comment, quoted = "", "", ""
    for at, letter in enumerate(line):
        if quoted:
            quoted = "" if letter == quoted else quoted
        elif letter in "'\"":
            quoted = letter
        elif letter == "#" and (at == 0 or line[at - 1] == " "):
            comment = line[at:]
            break
        code += letter
    return [part.strip() for part in re.split(r"&&|\|\||;|&(?= |$)", code) if part.strip()], comment


def skeletons(command):
    """What has to be found of a command: lists of (program, verbs, flags). None: it is no command that this knows."""
    command = re.sub(r"[<>]\s*\S+|\$\([^)]*\)|…", "", command)
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    while words and (words[0] in PREFIXES or re.fullmatch(r"[A-Z_]+=.*", words[0])):
        words = words[1:]
    if words[:1] == ["cd"] or not words:
        return []
    if words[:2] == ["sh", "-c"]:
        return [one for part in plain(words[2])[0] for one in skeletons(part) or []]
    if words[0] == "umask":
        return []
    if words[0].startswith("python3") and len(words) > 1:
        words = words[1:]
    name = next((script for script in SCRIPTS if words[0].endswith(script)), None)
    if name == "/scripts/backup-recovery.sh" and words[1:]:
        # What it does is its first flag.
        return [("", [words[1]], [word for word in words[2:] if word.startswith("--")])]
    if name:
        return [("", [name], [word for word in words[1:] if word.startswith("--")])]
    if words[0] == "cargo" and "--" in words:
        words = ["nsctl", *words[words.index("--") + 1 :]]
    if words[0] not in PROGRAMS:
        return None
    if "--" in words and words[0] == "kubectl":
        inner = words[words.index("--") + 1 :]
        return skeletons(" ".join(words[: words.index("--")])) + (skeletons(shlex.join(inner)) or [])
    if words[:2] == ["docker-compose", "exec"]:
        rest = [word for word in words[2:] if word != "-T"]
        return [("docker-compose", ["exec"], []), *(skeletons(shlex.join(rest[1:])) or [])]
    # How the controller is reached is no part of what is done.
    flags = [word.split("=")[0] for word in words[1:] if word.startswith("--") and word != "--server"]
    verbs, skip = [], False
    for word in words[1:]:
        if skip:
            skip = False
        elif word in ("-n", "--server", "--token-file", "--token", "-p", "-f", "-o"):
            skip = True
        elif not word.startswith("-"):
            verbs.append(word)
    key = (words[0], *verbs[:2])
    depth = GROUPS.get(key) or GROUPS.get(key[:2]) or PROGRAMS[words[0]]
    verbs = [verb for verb in verbs[:depth] if re.fullmatch(r"[a-z][a-z-]*", verb)]
    return [(words[0], verbs, flags)] if verbs else None


def commands():
    """(where, command, comment) of each command in the documents."""
    for document in DOCUMENTS:
        language = None
        for number, line in enumerate((ROOT / document).read_text().splitlines(), 1):
            where = f"{document}:{number}"
            if line.startswith("```"):
                language = None if language is not None else line[3:].strip() or "sh"
            elif language in ("sh", "console"):
                parts, comment = plain(line)
                yield from ((where, part, comment) for part in parts)
            elif language is None:
                for span in re.findall(r"`([^`]+)`", line):
                    yield where, span, None


def main():
    calls = {}
    for pattern in TESTS:
        for file in ROOT.glob(pattern):
            if file.is_file():
                calls[str(file.relative_to(ROOT))] = functions(file.read_text(), file.suffix == ".rs")

    def where_run(program, verbs, flags):
        count = len(verbs)
        for file, all_words in calls.items():
            if WHERE.get(program, "") not in file:
                continue
            for words in all_words:
                spots = range(len(words) - count + 1)
                is_there = any(words[at : at + count] == verbs for at in spots) or (
                    verbs[0] in SCRIPTS and any(word.endswith("/" + verbs[0]) for word in words)
                )
                if is_there and all(any(word.split("=")[0] == flag for word in words) for flag in flags):
                    return file
        return None

    wrong, used, listed, runs = [], set(), [], {}
    for where, command, comment in commands():
        in_block = comment is not None
        parts = skeletons(command)
        if parts is None or (not parts and not in_block):
            if in_block:
                wrong.append(f"{where}: {command}: no program that tests/commands.py knows")
            continue
        if in_block and UNTESTED in comment:
            listed.append(f"{where}\t{command}\tby hand")
            continue
        if not in_block and command.startswith(tuple(HINTS)):
            continue
        for program, verbs, flags in parts:
            shown = " ".join(verbs + flags)
            if (program, shown) not in runs:
                runs[program, shown] = where_run(program, verbs, flags)
            file = runs[program, shown]
            if shown in MARKED:
                used.add(shown)
                file = MARKED[shown]
                texts = [(ROOT / name).read_text() for name in (file, HELPERS)]
                words = {word for text in texts for word in re.findall(r"[\w.-]+", text)}
                missing = [word for word in verbs + flags if word not in words]
                wrong += [f"{where}: {command}: {file} has no {', '.join(missing)}"] if missing else []
            elif file is None:
                wrong.append(f"{where}: {command}: no test runs `{shown}`")
            listed.append(f"{where}\t{shown}\t{file}")
    wrong += [f"tests/commands.py: {command}: no document gives it any more" for command in MARKED.keys() - used]
    if "--list" in sys.argv[1:]:
        print("\n".join(listed))
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        sys.exit(
            "write a test that runs it, name the test in MARKED of tests/commands.py, or say in the document: "
            f"`# {UNTESTED} WHY`"
        )


if __name__ == "__main__":
    main()
