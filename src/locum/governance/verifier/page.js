// The page itself: a file comes in by dropping or choosing it, and nothing goes out: the page may open no connection at all.

const element = (id) => document.getElementById(id);

function line(check) {
  const row = document.createElement("tr");
  for (const text of [check.ok ? "PASS" : "FAIL", check.check, (check.ok ? [check.compared] : check.problems.slice(0, 8)).join("\n")]) {
    row.appendChild(document.createElement("td")).textContent = text;
  }
  row.className = check.ok ? "pass" : "fail";
  return row;
}

async function take(file) {
  document.body.dataset.state = "working";
  element("verdict").textContent = `Verifying ${file.name} ...`;
  element("checks").replaceChildren();
  let checks;
  try {
    const options = {coordinator: element("coordinator").value.trim(), consortium: element("consortium").value.trim(), least: Number(element("least").value) || 0};
    options.seen = element("seen").value.trim() ? element("seen").value.trim() + "\n" : "";
    checks = await verify(new Uint8Array(await file.arrayBuffer()), options);
  } catch {
    checks = [{check: "files", ok: false, compared: "", problems: ["this browser cannot read the file: use verify.py"]}];
  }
  element("checks").replaceChildren(...checks.map(line));
  const bad = checks.filter((c) => !c.ok).map((c) => c.check);
  element("verdict").textContent = bad.length ? `THIS BUNDLE DOES NOT HOLD: ${bad.join(", ")}` : "Every check holds.";
  document.body.dataset.report = JSON.stringify({ok: bad.length === 0, checks});
  document.body.dataset.state = bad.length ? "bad" : "good";
}

async function able() {
  try {
    await crypto.subtle.importKey("raw", new Uint8Array(32), "Ed25519", false, ["verify"]);
    new DecompressionStream("deflate-raw");
    return true;
  } catch { return false; }
}

element("file").addEventListener("change", (event) => { if (event.target.files.length) take(event.target.files[0]); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});
able().then((ok) => {
  if (!ok) element("verdict").textContent = "This browser has no Ed25519 or cannot unpack zip files: update it, or use verify.py.";
  document.body.dataset.state = ok ? "ready" : "unable";
});
