"""The README's walk, command by command, as three people would type it; every command also as JSON."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from locum import Rows, Study, simulate
from locum.testing.federation import free_port

ROWS = {"a": [50.0, 61.5], "b": [70.0, 48.0, 55.5], "c": [80.0]}
STUDY = """
schema = "locum/study/1"
name = "ages"
question = "How old are they?"
[data.variables]
age = { unit = "a", minimum = 0, maximum = 120 }
[terms]
min_cohort = 3
privacy = "none"
[[plan]]
name = "age"
task = "moments"
variables = ["age"]
"""


PRIVATE = """
name = "private"
[data.variables]
age = { unit = "a", minimum = 0, maximum = 120 }
[terms]
min_cohort = 3
[terms.privacy]
eps = 1.0
delta = 1e-6
patients = 1000
[[plan]]
name = "h"
task = "histogram"
variable = "age"
bins = 4
"""


class Shell:
    """Commands in one folder; background ones end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, contextlib.ExitStack()

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        done = subprocess.run([sys.executable, "-m", "locum", *map(str, words)], cwd=self.folder, capture_output=True, text=True, timeout=90)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *words: str | Path) -> Any:
        return json.loads(self(*words, "--json"))

    def background(self, *words: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen([sys.executable, "-m", "locum", *words], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.running.callback(process.wait)
        self.running.callback(process.terminate)
        return process


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    with shell.running:
        yield shell


def private(shell: Shell) -> None:
    """A study with differential privacy, as its investigator and a site's data manager meet it."""
    (shell.folder / "private.toml").write_text(PRIVATE)
    digest = Study.load(shell.folder / "private.toml").digest
    quote = shell("privacy", "quote", "private.toml")
    assert "can detect their participation at a 1 % false-positive rate" in " ".join(quote.split())
    assert shell.json("privacy", "quote", "private.toml")["epsilon"] <= 1.0
    shell("study", "submit", "private.toml", "--home", "lee")
    assert "no ledger yet" in shell("site", "ledger", "--folder", "a", code=1)
    for name in ROWS:
        review = " ".join(shell("site", "review", digest, "--folder", name).split())
        assert "eps 1.00, delta 1e-06 for each patient, over the whole study" in review
        assert "a ledger that approving opens" in review
        assert shell.json("site", "approve", digest, "--folder", name)["decision"] == "approved"
    final = shell.json("study", "watch", "private", "--home", "lee")
    assert final["status"] == "finished"
    assert final["results"]["h"]["noise_sd"] > 0
    card = shell.json("run", "card", "private", "--home", "lee")
    assert card["promise"]["eps"] <= 1.0
    assert not [c for c in card["checks"] if c["status"] == "FAIL"]
    kept = shell.json("site", "ledger", "--what-if", "private.toml", "--folder", "a")
    (line,) = kept["studies"]
    assert (line["study"], line["rounds_charged"], kept["balance"]["eps"]) == (digest, 1, 8.0)
    assert 0 < kept["balance"]["eps_spent"] < 1.0
    assert "it is in the ledger" in kept["witness"]
    assert "charged" in shell("site", "ledger", "--lines", "--folder", "a")
    assert shell.json("site", "ledger", "settle", digest[:12], "--folder", "a")["settled"]
    assert shell.json("site", "ledger", "accept", "--folder", "a")["data_sha256"]


def test_the_walk(shell: Shell) -> None:
    port = free_port()
    own = shell.json("roster", "key", "elsewhere.key")
    assert shell.json("init", "other", "--consortium", own["public_key"])["consortium_fingerprint"] == own["fingerprint"]
    assert not (shell.folder / "other" / "consortium.key").exists()
    assert "exists already" in shell("roster", "key", "elsewhere.key", code=1)
    made = shell.json("init", "coordinator", "--url", f"https://localhost:{port}")
    assert "already holds" in shell("init", "coordinator", code=1)
    serving = shell.background("serve", "coordinator")
    assert serving.stdout
    assert "ready" in serving.stdout.readline()

    for name, ages in ROWS.items():
        invitation = shell.json("invite", "coordinator", name)["invitation"]
        member = shell.json("site", "enroll", invitation, "--folder", name)
        assert (member["coordinator"], member["consortium"]) == (made["fingerprint"], made["consortium_fingerprint"])
        site_toml = shell.folder / name / "site.toml"
        site_toml.write_text(site_toml.read_text().replace("min_cohort = 5", "min_cohort = 3"))  # a decision of each site
        (shell.folder / f"{name}.csv").write_text("years\n" + "\n".join(map(str, ages)) + "\n")
        (shell.folder / "map.toml").write_text('[columns]\nage = "years"\n')
        assert shell.json("site", "data", "add", f"{name}.csv", "--mapping", "map.toml", "--folder", name)["columns"] == ["years"]
    assert shell.json("site", "data", "list", "--folder", "a")[0]["name"] == "default"
    assert "used" in shell("site", "enroll", invitation, "--folder", "thief", code=1)

    words = [sys.executable, "-m", "locum", "connect", "--home", "lee"]  # from a pipe: a command line is visible to others
    subprocess.run(words, cwd=shell.folder, input=shell("invite", "coordinator", "lee", "--role", "investigator"), text=True, check=True, timeout=60)
    (shell.folder / "ages.toml").write_text(STUDY)
    submitted = shell.json("study", "submit", "ages.toml", "--home", "lee")
    digest = Study.load(shell.folder / "ages.toml").digest
    assert submitted["study"] == digest

    agents = [shell.background("site", "serve", "--folder", name) for name in ROWS]
    for name in ROWS:
        assert [s["digest"] for s in shell.json("site", "studies", "--folder", name)] == [digest]
        review = shell("site", "review", digest[:8], "--folder", name)
        assert "updates: masked; the coordinator sees only their sum over at least 3 sites" in review
        assert shell.json("site", "review", digest, "--folder", name)["steps"][0]["reads"] == ["age"]
        assert "--exact" in shell("site", "approve", digest, "--folder", name, code=1)  # no noise: that has to be said
        assert shell.json("site", "approve", digest, "--exact", "--folder", name)["decision"] == "approved"

    waiting = shell.json("run", "show", "ages", "--home", "lee")
    assert (waiting["status"], waiting["approvals"]) == ("waiting", 3)
    assert "locum roster sign" in waiting["note"]
    assert "locum roster sign" in shell("run", "show", "ages", "--home", "lee")
    assert shell.json("roster", "show", "coordinator") == {"in_force": None, "enrolled": list(ROWS)}
    shell.json("roster", "draft", "coordinator", "draft.json")  # signed elsewhere, where the consortium's key is
    (shell.folder / "coordinator" / "consortium.key").rename(shell.folder / "office.key")
    assert "consortium's key is not at" in shell("roster", "sign", "coordinator", "--yes", code=1)
    assert "needs --yes" in shell("roster", "sign", "draft.json", "--key", "office.key", "--json", code=1)
    signed = shell.json("roster", "sign", "draft.json", "--key", "office.key", "--yes")
    assert signed["sites"] == list(ROWS)
    assert not signed["installed"]
    assert "not a signed roster" in shell("roster", "install", "coordinator", "draft.json", code=1)
    assert shell.json("roster", "install", "coordinator", signed["file"])["installed"]
    assert "Roster 1" in shell("roster", "show", "coordinator")

    final = shell.json("study", "watch", "ages", "--home", "lee")
    assert final["status"] == "finished"
    expected = simulate(Study.load(shell.folder / "ages.toml"), {n: Rows.of({"age": x}) for n, x in ROWS.items()})
    assert final["model"] == expected.model_sha256
    assert final["results"] == expected.results

    assert shell.json("run", "list", "--home", "lee")[0]["id"] == final["id"]
    shown = shell.json("run", "show", "ages", "--rounds", "--home", "lee")
    assert [r["answered"] for r in shown["rounds"]] == [3]
    assert shown["rounds"][0]["summed"] == 3
    assert shown["rounds"][0]["vector_bytes"] / shown["rounds"][0]["scalars"] < 50
    assert "masked" in shell("run", "show", final["id"], "--rounds", "--home", "lee")
    shell.json("run", "report", "ages", "report.html", "--home", "lee")
    assert "How old are they?" in (shell.folder / "report.html").read_text()
    assert shell.json("model", "list", "--home", "lee")[0]["id"] == expected.model_sha256
    assert shell.json("model", "show", "ages", "--home", "lee")["run"] == final["id"]
    assert shell.json("model", "export", "ages", "m.safetensors", "--home", "lee")["sha256"] == expected.model_sha256
    assert load_file(shell.folder / "m.safetensors").keys() == dict(expected.state).keys()
    assert len(shell.json("study", "list", "--home", "lee")[0]["approvals"]) == 3

    card = json.loads((shell.folder / "privacy.json").read_text())
    assert shell.json("run", "card", "ages", "--home", "lee") == card
    assert card["promise"] is None, "the sums were exact, and the card says so"

    again = shell.json("run", "start", "ages", "--home", "lee")
    assert again["id"] != final["id"]
    assert shell.json("study", "watch", again["id"], "--home", "lee")["model"] == expected.model_sha256
    released = shell.json("site", "releases", "--folder", "a")
    assert [line["entry"]["run"] for line in released] == [final["id"], final["id"], again["id"], again["id"]]
    assert [line["entry"]["scalars"] > 0 for line in released] == [True, False, True, False]  # the masked vector, and the shares for the sum
    assert shell.json("site", "deny", digest, "--folder", "a")["decision"] == "denied"
    private(shell)
    third = shell.json("run", "start", "ages", "--home", "lee")
    assert shell.json("run", "show", third["id"], "--home", "lee")["status"] == "waiting"
    assert shell.json("run", "cancel", third["id"], "--home", "lee")["status"] == "cancelled"
    assert "no run" in shell("run", "show", "nothing", "--home", "lee", code=1)

    for process in (*agents, serving):
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
