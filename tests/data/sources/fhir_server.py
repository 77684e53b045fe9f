"""A small FHIR server for tests, a process of its own: Patients, paged by an opaque cursor, and Observations, behind a token, that is busy at times.

Run as `python fhir_server.py PORT`. What it does is chosen by the search parameter `mode`.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

PEOPLE = [{"resourceType": "Patient", "id": f"p{i}", "gender": "male" if i % 2 else "female", "birthDate": "1950-01-02"} for i in range(25)]
LDL = [
    {"resourceType": "Observation", "id": f"o{i}", "subject": {"reference": f"Patient/p{i // 2}"}, "valueQuantity": {"value": 100 + i}, "status": "final"}
    for i in range(20)
]
calls: Counter[str] = Counter()


def outcome(status: int, code: str, headers: dict[str, str] | None = None) -> Response:
    body = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code, "diagnostics": "Jane Doe, MRN 12345"}]}
    return JSONResponse(body, status, headers=headers)


async def search(request: Request) -> Response:
    if request.headers.get("authorization") != "Bearer sesame":
        return outcome(401, "login")
    q = request.query_params
    mode, count, cursor = q.get("mode", ""), int(q.get("_count", "10")), int(q.get("cursor", "0"), 16)
    calls[f"{mode}@{cursor}"] += 1
    tries = calls[f"{mode}@{cursor}"]
    match mode:
        case "busy" if tries < 3:
            return outcome(429, "throttled", {"Retry-After": "0"})
        case "down":
            return outcome(503, "transient", {"Retry-After": "0"})
        case "wrong":
            return outcome(400, "not-supported")
        case "outcome":
            return outcome(200, "processing")
        case "moved":
            return RedirectResponse("http://127.0.0.1:1/Patient", 302)
        case "address":
            return JSONResponse({"resourceType": "Bundle", "link": [{"relation": "next", "url": "https://[nowhere"}]})
        case "html":
            return Response("<html>log in</html>", media_type="text/html")
        case "huge":
            return Response(b'{"resourceType":"Bundle","x":"' + b"a" * (3 << 20) + b'"}')
    entry: list[dict[str, Any]] = [
        {"fullUrl": f"http://x/Patient/{p['id']}", "resource": p, "search": {"mode": "match"}} for p in PEOPLE[cursor : cursor + count]
    ]
    if mode == "shift" and cursor:  # a record was added while the pages were read: the last one of the first page comes again
        entry.insert(0, {"resource": PEOPLE[cursor - 1]})
    if mode == "mixed":
        entry += [
            {"resource": {"resourceType": "OperationOutcome"}},
            {"resource": [1]},
            {"fullUrl": "http://x"},
            {"resource": {"resourceType": "Practitioner"}},
        ]
    links = [{"relation": "self", "url": str(request.url)}]
    if cursor + count < len(PEOPLE):
        more = f"?mode={mode}&_count={count}&cursor={cursor + count:x}"
        base = {"elsewhere": "http://127.0.0.2:9", "relative": ""}.get(mode, str(request.base_url).rstrip("/") + "/r4/")
        links.append({"relation": "next", "url": str(request.url) if mode == "loop" else base + ("/r4/Patient" if mode == "elsewhere" else "Patient") + more})
    return JSONResponse({"resourceType": "Bundle", "type": "searchset", "total": len(PEOPLE), "link": links, "entry": entry})


async def observations(request: Request) -> Response:
    """Pages of Observations. With _include each brings the Patients that its Observations are of, as FHIR has it."""
    if request.headers.get("authorization") != "Bearer sesame":
        return outcome(401, "login")
    q = request.query_params
    start, include = int(q.get("start", "0")), q.get("_include", "")
    calls[f"Observation@{start}"] += 1
    page = LDL[start : start + 7]
    entry: list[dict[str, Any]] = [{"resource": o, "search": {"mode": "match"}} for o in page]
    if include == "Observation:subject":
        people = {int(o["subject"]["reference"].removeprefix("Patient/p")) for o in page}
        entry += [{"resource": PEOPLE[k], "search": {"mode": "include"}} for k in sorted(people)]
    more = [{"relation": "next", "url": f"Observation?start={start + 7}&_include={include}"}] if start + 7 < len(LDL) else []
    return JSONResponse({"resourceType": "Bundle", "type": "searchset", "link": more, "entry": entry})


async def called(request: Request) -> Response:
    return JSONResponse(calls)


app = Starlette(routes=[Route("/r4/Patient", search), Route("/r4/Observation", observations), Route("/calls", called)])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
