"""The demonstration as a user runs it: 19 real processes, real HTTPS, SIGKILL or a cut upload; the same model to the last bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from locum import Study, simulate
from locum.data import registry
from locum.scenarios import studies


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The in-process engine's model of the same study."""
    pytest.importorskip("lifelines", reason="the demonstration's data come with lifelines")
    path = tmp_path_factory.mktemp("study") / "lung.toml"
    path.write_text(studies.text("lung"))
    study = Study.load(path)
    return simulate(study, registry.load("lung", study.data)).model_sha256


@pytest.mark.parametrize("fault", [None, "kill-coordinator", "kill-site", "cut-upload"])
def test_demo(tmp_path: Path, expected: str, fault: str | None) -> None:
    words = ["demo", "--json", "--folder", str(tmp_path / "demo"), *(["--fault", fault] if fault else [])]
    done = subprocess.run([sys.executable, "-m", "locum", *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["model_sha256"] == expected
    assert answer["sites"] == 18
    assert answer["max_abs_diff_vs_pooled"] <= 1e-6
    assert abs(answer["concordance"]["federated"] - answer["concordance"]["pooled"]) <= answer["concordance"]["federated_error_bound"] + 1e-12
    assert answer["concordance"]["within_sites"]["federated"] == pytest.approx(answer["concordance"]["within_sites"]["pooled"], abs=1e-12)
    assert answer["aggregation"] == "updates: masked; the coordinator sees only their sum over at least 10 sites; no noise: the sums are exact"
    assert answer["privacy"].startswith("none")
    assert (answer["fault"] is None) == (fault is None)
    if fault:
        assert "none was injected" not in answer["fault"]["what"]
        assert ", 0 time(s)" not in answer["fault"]["what"]
    for key in ("model", "report", "log"):
        assert Path(answer["files"][key]).stat().st_size > 0
