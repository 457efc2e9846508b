"""Audits as `udslab audit --json` gives them, made up."""

from __future__ import annotations

import random

from udslab.audit.findings import SCHEMA, Audit, judge
from udslab.audit.verdicts import VERDICTS

NAMES = [
    "redis",
    "valkey",
    "memcached",
    "postgres",
    "mariadb",
    "mysql",
    "dbus-daemon",
    "nginx",
    "haproxy",
    "gunicorn",
    "uvicorn",
    "uwsgi",
    "php-fpm",
    "puma",
    "unicorn",
    "node-http",
    "deno",
    "bun",
    "envoy",
    "caddy",
    "traefik",
    "dockerd",
    "podman",
    "containerd",
    "ssh-agent",
    "gpg-agent",
    "tmux-server",
    "emacs-daemon",
    "mpd",
    "pulseaudio",
    "cupsd",
    "saslauthd",
    "opendkim",
    "rspamd",
    "clamav-daemon",
]

EVIDENCE = {
    "steals": [
        "the first listens at /tmp/udslab-x7/s, inode 5417, pid 3120",
        "the second was started beside it, pid 3127, and runs",
        "the path leads to inode 5420, which pid 3127 listens on; pid 3120 still listens, and nobody can reach it",
    ],
    "left": ["SIGTERM to pid 3120: it exits with status 0 after 0.04 s", "a stale socket file is left, inode 5417"],
    "deleted-starts": [
        "a regular file of 26 bytes is at the path, inode 5401",
        "the file has gone: a socket, inode 5417, is in its place",
    ],
    "fails": [
        "SIGKILL to 1 process; a stale socket file stays, inode 5417",
        "the second start exits with status 1; last line: "
        'FATAL: could not bind Unix address "/tmp/udslab-x7/s": Address already in use',
    ],
}


def finding(probe, outcome, evidence=(), facts=None, why=""):
    facts = facts or {}
    verdict = "skip" if why else judge(probe, outcome, facts).value
    found = {"probe": probe, "outcome": outcome, "verdict": verdict, "facts": facts}
    return {**found, "evidence": list(evidence), "seconds": 0.4, "why": why}


def audit(name="redis", findings=(), **subject):
    known = {"name": name, "command": [f"{name}-server", "--unixsocket", "{socket}"], "user": "nobody"}
    known |= {"version": f"{name} 7.0.15", "kernel": "6.18.0", "lab": "0.1.0", **subject}
    return Audit.from_dict({"schema": SCHEMA, "subject": known, "findings": list(findings)})


def whole(name="redis", seed=0, **subject):
    """An audit with every probe, its outcomes drawn by lot, the good ones more often."""
    lot = random.Random(f"{name}{seed}")
    findings = []
    for probe, outcomes in VERDICTS.items():
        if lot.random() < 0.06:
            findings.append(finding(probe, "", why="nobody can ask it: give --ping"))
            continue
        first, *others = outcomes
        outcome = first if lot.random() < 0.7 or not others else lot.choice(others)
        evidence = EVIDENCE.get(outcome, [f"{probe} was done to pid 3120", f"what was seen: {outcome}"])
        facts = (
            {"open_to_all": lot.random() < 0.3, "mode": {"022": "0755", "077": "0700"}}
            if probe == "fresh-start"
            else {}
        )
        findings.append(finding(probe, outcome, evidence, facts))
    return audit(name, findings, **subject)


def many(number=None):
    return [whole(name) for name in NAMES[:number]]
