"""SIGKILL of a real site process in mid-visit and in mid-upload, SIGTERM, and a coordinator that dies with it."""

import json
import resource
import time
from typing import Any

from locum.site.folder import releases
from locum.testing import CuttingProxy


def test_killed_in_mid_visit(federation: Any, study: Any) -> None:
    sites = federation.sites(3)
    asked = study("visit", pause=0.4, rounds=2)
    run = federation.submit(asked, sites)
    victim = federation.process_of(sites[0])
    with federation.serve(sites[1:]), victim:
        victim.wait_for("round begins")
        time.sleep(0.1)
        victim.kill()
        assert '"round answered"' not in victim.log()
        assert not releases(sites[0])
        victim.start()
        view = federation.finish(run)
    assert view.model == federation.simulated(asked, sites)


def test_killed_in_mid_upload(federation: Any, study: Any) -> None:
    with CuttingProxy(federation.port) as proxy:
        sites = [federation.site("s0", port=proxy.port), federation.site("s1"), federation.site("s2")]
        asked = study("upload", size=400_000, rounds=2)
        run = federation.submit(asked, sites)
        victim = federation.process_of(sites[0])
        proxy.on_cut = victim.kill
        with federation.serve(sites[1:]), victim:
            proxy.cut_upload(1_500_000)
            until = time.monotonic() + 20
            while victim.process is not None:
                assert time.monotonic() < until
                time.sleep(0.01)
            assert len(releases(sites[0])) == 1, "the log was durable before anything left"
            victim.start()
            view = federation.finish(run)
    assert view.model == federation.simulated(asked, sites)


def test_terminated_politely_in_mid_visit(federation: Any, study: Any) -> None:
    sites = federation.sites(3)
    asked = study("polite", pause=4.0, rounds=1)
    run = federation.submit(asked, sites)
    process = federation.process_of(sites[0])
    with federation.serve(sites[1:]), process:
        process.wait_for("round begins")
        process.process.terminate()
        assert process.process.wait(20) == 0
        assert '"stopped"' in process.log()
        assert '"round answered"' not in process.log(), "a visit in a thread is not waited for"
        process.start()
        assert federation.finish(run).model == federation.simulated(asked, sites)
    for line in process.log().splitlines():
        json.loads(line)


def test_an_outbox_that_cannot_be_written(federation: Any, study: Any) -> None:
    """RLIMIT_FSIZE makes the kernel refuse the outbox file: the site says 'storage', and goes on serving."""
    sites = federation.sites(4)
    asked = study("limit", size=400_000, rounds=1, terms={"quorum": 3, "start_when": 4})
    run = federation.submit(asked, sites)
    process = federation.process_of(sites[3])
    with federation.serve(sites[:3]), process:
        resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        view = federation.finish(run)
        process.wait_for('"round answered"')
    assert federation.client.rounds(run)[0].declined == {sites[3].name: "storage"}
    assert view.model == federation.simulated(asked, sites[:3])
    assert not list((sites[3] / "outbox").iterdir())
