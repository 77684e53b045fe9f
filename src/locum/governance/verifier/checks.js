// The checks of an audit bundle, in the order and the words of `locum audit verify`.

class Log {
  constructor(listed) {
    this.entries = listed.map((given) => {
      const value = parse(given.body, `entry ${given.n}`);
      if (Object.keys(value).sort().join() !== "at,by,details,event,subject") throw new Error("not an entry");
      return {n: number(given.n), body: encode(given.body), proof: given.proof.map(unhex), ...value};
    }).sort((a, b) => a.n - b.n);
    this.spans = new Map();
    this.subjects = new Map();
    for (const e of this.entries) {
      if (!this.subjects.has(e.subject)) { this.subjects.set(e.subject, []); this.spans.set(e.subject, []); }
      this.subjects.get(e.subject).push(e);
      const spans = this.spans.get(e.subject), enrolled = e.event === "party:party:enrolled";
      if ((enrolled || e.event === "operator:party:revoked") && spans.length && spans.at(-1).end === Infinity) spans.at(-1).end = e.n;
      if (enrolled) spans.push({key: unb64(e.details.public_key), start: e.n, end: Infinity});
    }
  }
  about(subject, event = "") { return (this.subjects.get(subject) ?? []).filter((e) => !event || e.event === event); }
  one(subject, event, details = {}) {
    const found = this.about(subject, event).filter((e) => Object.entries(details).every(([k, v]) => e.details[k] === v));
    if (found.length !== 1) throw new Bad(`the log has ${found.length} entries '${event}' about ${subject.slice(0, 20)}, not one`);
    return found[0];
  }
  keys(party, first, last) {
    const spans = this.spans.get(party) ?? [], found = spans.filter((s) => s.start < last && s.end > first).map((s) => s.key);
    if (found.length) return found;
    const gone = spans.filter((s) => s.end <= first).map((s) => s.end);
    throw new Bad(gone.length ? `the key of ${party} was revoked by entry ${Math.max(...gone)}, before` : `${party} was not enrolled, by the log`);
  }
  decisions(study) { return this.about(study).filter((e) => e.event.startsWith("site:study:")); }
  approved(study, site, first, last) {
    const said = this.decisions(study).filter((e) => e.by === site && e.n < last), before = said.filter((e) => e.n <= first);
    return [...before.slice(-1), ...said.filter((e) => e.n > first)].some((e) => e.event === "site:study:approved");
  }
}

const say = (e) => `entry ${e.n} (${e.event} by ${e.by})`;

async function openBundle(files, model, options) {
  const json = (name) => { if (!(name in files)) throw new Error("missing"); return parse(files[name], name); };
  const b = {files, model, ...options, json, key: (party) => unb64(json("keys.json")[party])};
  const once = (name, make) => { let made; Object.defineProperty(b, name, {get: () => (made ??= make())}); };
  once("note", () => parseNote(files["checkpoint.txt"]));
  once("log", () => new Log(json("entries.json")));
  once("manifest", () => parse(files["manifest.json"], "the manifest", false));
  once("study", () => {
    const value = json("study.json");
    const ok = Object.keys(value).sort().join() === "envelope,model,requester,run,study" && Object.values(value).every((v) => typeof v === "string");
    if (!ok) throw new Bad("study.json is not in its one form");
    return value;
  });
  once("rounds", () => Object.keys(files).filter((n) => n.startsWith("rounds/")).sort().map((n) => {
    const value = json(n);
    return {seq: Number(n.slice(7, -5)), ...value, a: parse(value.body, "an assignment", false)};
  }));
  once("combined", () => new Map(b.log.about(b.study.run, "coordinator:round:combined").map((e) => [number(e.details.seq), e])));
  b.when = (seq) => {
    const entry = b.combined.get(seq), last = entry ? entry.n : b.note.size;
    return [Math.max(0, ...b.log.about(b.study.run).map((e) => e.n).filter((n) => n < last)), last];
  };
  b.federation = async () => hex(await sha256(encode("locum/federation/1\0"), b.key("coordinator"))).slice(0, 32);
  return b;
}

async function keys(b, wrong) {
  const said = [];
  for (const party of ["coordinator", "consortium"]) {
    const raw = b.key(party), pin = b[party] ?? "", print = await fingerprint(raw);
    if (!raw.length && party === "consortium" && !pin) { said.push("no consortium key"); continue; }
    if (pin && ![print, b.json("keys.json")[party]].includes(pin)) wrong.push(`the ${party}'s key is ${print}, not the one that you gave`);
    said.push(`${party} ${print} ` + (pin ? "is the key that you gave" : "is NOT PINNED: the bundle only agrees with itself about it"));
  }
  return said.join("; ");
}

async function checkpoint(b, wrong) {
  const note = b.note, key = b.key("coordinator"), id = await noteId(note.origin, 1, key);
  if (note.origin !== `locum.log/${await b.federation()}`) wrong.push(`the checkpoint is of the log '${note.origin}', which is not this coordinator's`);
  let good = false;
  for (const [name, s] of note.lines) {
    good = good || (name === note.origin && same(s.slice(0, 4), id) && await signed(key, s.slice(4), encode(note.text)));
  }
  if (!good) wrong.push("the checkpoint is not signed by the coordinator's key: it was forged or altered");
  let text = `${note.size} entries, root ${hex(note.root).slice(0, 16)}, signed by the coordinator`;
  if (b.seen) {
    const other = parseNote(b.seen);
    if (other.origin === note.origin && other.size === note.size && !same(other.root, note.root)) {
      wrong.push(`the log was forked: of its ${note.size} entries you have seen another root, ${hex(other.root).slice(0, 16)}`);
    } else if (other.origin === note.origin && other.size !== note.size) {
      text += `; the one that you have seen has ${other.size} entries, so they cannot be compared without a consistency proof`;
    }
  }
  return text;
}

async function witnesses(b, wrong) {
  const good = new Set();
  for (const [name, line] of b.note.lines) {
    if (name === b.note.origin) continue;
    let known;
    try { known = b.log.keys(name, b.note.size, b.note.size); } catch (error) {
      if (!(error instanceof Bad)) throw error;
      wrong.push(`a cosignature in the name of ${name}: ${error.message}`);
      continue;
    }
    let own = false;
    for (const key of known) {
      if (line.length !== 76 || !same(line.slice(0, 4), await noteId(name, 4, key))) continue;
      const when = new DataView(line.buffer).getBigUint64(4);
      own = own || await signed(key, line.slice(12), encode(`cosignature/v1\ntime ${when}\n${b.note.text}`));
    }
    if (own) good.add(name);
    else wrong.push(`the cosignature of the witness ${name} is not its own, or is of another checkpoint: it was forged`);
  }
  if (good.size < b.least) wrong.push(`${good.size} sites have cosigned this checkpoint; you asked for ${b.least}: it may be of a log that others were not shown`);
  const some = [...good].sort();
  return `cosigned by ${some.length} sites` + (some.length ? `: ${some.slice(0, 5).join(", ")}${some.length > 5 ? " ..." : ""}` : "");
}

async function inclusion(b, wrong) {
  for (const e of b.log.entries) {
    if (!(e.n >= 0 && e.n < b.note.size && await included(e.n, b.note.size, e.body, e.proof, b.note.root))) {
      wrong.push(`${say(e)} is not in the log at that place: it was edited, inserted or moved, or the log is another`);
    }
  }
  if (new Set(b.log.entries.map((e) => e.n)).size < b.log.entries.length) wrong.push("two entries have the same number");
  return `${b.log.entries.length} entries lead to the checkpoint's root`;
}

async function complete(b, wrong) {
  const given = b.json("complete.json"), note = b.note;
  if (!await signed(b.key("coordinator"), unb64(given.signature), encode("locum/log-entries/1\0" + given.body))) {
    throw new Bad("the list of entries about this run is not signed by the coordinator");
  }
  const said = parse(given.body, "the list of entries");
  if (said.origin !== note.origin || said.size !== note.size || said.root !== hex(note.root)) throw new Bad("the list of entries about this run is of another checkpoint");
  const have = new Set(b.log.entries.map((e) => e.n)), listed = new Set(said.entries), subjects = new Set(said.subjects);
  for (const n of said.entries) if (!have.has(n)) wrong.push(`entry ${n} was left out: the coordinator's list names it`);
  for (const e of b.log.entries) if (!listed.has(e.n)) wrong.push(`${say(e)} is not in the coordinator's list`);
  const about = [b.study.study, b.study.run, b.study.model, b.study.requester, ...b.rounds.flatMap((r) => r.a.roster)];
  for (const r of b.json("rosters.json")) about.push(await digest(r.body));
  about.push(...note.lines.map((x) => x[0]).filter((name) => name !== note.origin));
  for (const name of [...new Set(about)].sort()) if (!subjects.has(name)) wrong.push(`the coordinator's list does not cover ${name.slice(0, 20)}`);
  return `the coordinator signs that these ${have.size} entries are all about ${subjects.size} subjects`;
}

async function study(b, wrong) {
  const s = b.study;
  if (await digest(b.files["manifest.json"]) !== s.study) wrong.push("the manifest is not the study that was signed: it was altered");
  const entry = b.log.one(s.study, "investigator:study:submitted");
  if (entry.by !== s.requester || entry.details.envelope !== s.envelope) wrong.push(`${say(entry)} is of another requester or another signature`);
  const known = b.log.keys(s.requester, entry.n, entry.n);
  await openEnvelope(s.envelope, s.requester, known, {kind: "study", study: s.study, digest: s.study, run: ""});
  b.log.one(s.run, "investigator:run:created", {study: s.study});
  return `'${b.manifest.name}' is the study that ${s.requester} signed, and its run is in the log`;
}

async function approvals(b, wrong) {
  const kinds = {"site:study:approved": "approval", "site:study:denied": "denial"}, id = b.study.study, now = new Map();
  const decided = b.log.decisions(id);
  for (const e of decided) {
    const wanted = e.event in kinds ? {kind: kinds[e.event]} : {};
    try {
      await openEnvelope(e.details.envelope, e.by, b.log.keys(e.by, e.n, e.n), {study: id, digest: id, run: "", ...wanted});
    } catch (error) {
      if (!(error instanceof Bad)) throw error;
      wrong.push(`${say(e)}: ${error.message}`);
    }
    now.set(e.by, e.event === "site:study:approved");
  }
  const force = [...now.values()].filter(Boolean).length;
  return `${decided.length} decisions by ${now.size} sites, each signed with the key that it had then; ${force} approvals in force`;
}

async function rosters(b, wrong) {
  const listed = new Map(), federation = await b.federation();
  for (const r of b.json("rosters.json")) {
    const id = await digest(r.body), body = parse(r.body, "a roster");
    if (!await signed(b.key("consortium"), unb64(r.signature), encode("locum/roster/1\0" + r.body))) {
      wrong.push(`roster ${body.version} is not signed by the consortium: it was altered or swapped`);
    }
    if (body.federation !== federation) wrong.push(`roster ${body.version} is another federation's`);
    listed.set(id, {...body, since: b.log.one(id, "consortium:roster:installed", {version: body.version}).n});
  }
  let masked = 0, newest = 0;
  for (const r of b.rounds) {
    if ((r.a.session ?? null) === null) continue;
    masked += 1;
    const roster = listed.get(r.a.session.roster);
    if (!roster) { wrong.push(`round ${r.seq} was masked under a roster that the bundle does not have`); continue; }
    const [first, last] = b.when(r.seq);
    if (roster.since > last || number(roster.version) < newest) wrong.push(`round ${r.seq} was masked under a roster that was not in force then`);
    newest = Math.max(newest, number(roster.version));
    for (const name of r.a.roster) {
      if (!Object.hasOwn(roster.sites, name) || !b.log.keys(name, first, last).some((k) => same(k, unb64(roster.sites[name])))) {
        wrong.push(`round ${r.seq}: the key of ${name} is not the one in the consortium's roster`);
      }
    }
  }
  return listed.size ? `${listed.size} rosters signed by the consortium, over ${masked} masked rounds` : "no round was masked, and no roster is signed";
}

async function rounds(b, wrong) {
  const s = b.study, failed = new Set(b.log.about(s.run, "coordinator:round:failed").map((e) => e.details.seq)), have = new Set(b.rounds.map((r) => r.seq));
  if (b.rounds.some((r, i) => r.seq !== i)) wrong.push("the rounds are not numbered without a gap: one was left out");
  if (b.log.about(s.run, "coordinator:round:combined").length > b.combined.size) {
    wrong.push("a round was summed twice: two sums over other sites tell what those sites answered");
  }
  for (const seq of [...new Set([...b.combined.keys(), ...failed])].sort((x, y) => x - y)) if (!have.has(seq)) wrong.push(`round ${seq} is in the log, and not in the bundle`);
  let state = null;
  for (const r of b.rounds) {
    const entry = b.combined.get(r.seq);
    try {
      const wanted = {kind: "assignment", study: s.study, run: s.run, seq: r.seq, digest: await digest(r.body)};
      await openEnvelope(r.envelope, "coordinator", [b.key("coordinator")], wanted);
      if (r.a.study !== s.study || r.a.run !== s.run || r.a.seq !== r.seq) throw new Bad("it is of another study, run or round");
    } catch (error) {
      if (!(error instanceof Bad)) throw error;
      wrong.push(`the assignment of round ${r.seq}: ${error.message}`);
    }
    if (state !== null && state !== r.a.state) wrong.push(`round ${r.seq} did not start from the state that the round before had made`);
    if (!entry && !failed.has(r.seq)) wrong.push(`round ${r.seq} is not in the log`);
    state = entry ? entry.details.state : r.a.state;
  }
  if (state !== s.model) wrong.push("the last round did not make this model");
  return `${b.rounds.length} rounds, ${b.combined.size} of them summed, each signed by the coordinator and continuing the one before`;
}

async function answers(b, wrong) {
  const s = b.study, terms = b.manifest.terms, least = Math.max(terms.min_cohort, terms.quorum ?? 0);
  let count = 0;
  for (const r of b.rounds) {
    const entry = b.combined.get(r.seq);
    if (!entry) continue;
    const [first, last] = b.when(r.seq), phase = (r.a.session ?? null) === null ? "release" : "masked", given = {}, names = Object.keys(r.answers).sort();
    const found = await Promise.all(names.map(async (name) => {
      try {
        const wanted = {kind: "release", study: s.study, run: s.run, seq: r.seq, phase};
        const envelope = await openEnvelope(r.answers[name], name, b.log.keys(name, first, last), wanted);
        const why = !r.a.roster.includes(name) ? "it was not asked" : b.log.approved(s.study, name, first, last) ? "" : "it answered, and no approval by it is in the log";
        return {digest: envelope.digest, why};
      } catch (error) {
        if (!(error instanceof Bad)) throw error;
        return {why: error.message};
      }
    }));
    names.forEach((name, i) => {
      if (found[i].digest !== undefined) given[name] = found[i].digest;
      if (found[i].why) wrong.push(`round ${r.seq}, ${name}: ${found[i].why}`);
    });
    const n = Object.keys(given).length;
    count += n;
    if (entry.details.answers !== await digest(canonical(given)) || entry.details.sites !== n) wrong.push(`round ${r.seq}: the answers are not those that the log says were summed`);
    if (!(n >= least)) wrong.push(`round ${r.seq} was summed over ${n} sites; the study asks for ${least}`);
  }
  return `${count} answers, each signed by the site that gave it, by sites that had approved; their digests are those in the log`;
}

async function model(b, wrong) {
  const s = b.study;
  b.log.one(s.model, "coordinator:model:made", {run: s.run, study: s.study});
  if (b.model && b.model !== s.model) wrong.push(`the model file is ${b.model.slice(0, 16)}, not ${s.model.slice(0, 16)}: it was swapped`);
  return `SHA-256 ${s.model} ` + (b.model ? "is that of the file" : "is in the log; the file is not in the bundle");
}

async function results(b, wrong) {
  const entry = b.log.one(b.study.model, "coordinator:model:made", {run: b.study.run});
  if (await digest(b.files["results.json"]) !== entry.details.results) wrong.push("the results are not those that the log says the run had: they were altered");
  return `SHA-256 ${entry.details.results.slice(0, 16)} is that in ${say(entry)}`;
}

const CHECKS = [keys, checkpoint, witnesses, inclusion, complete, study, approvals, rosters, rounds, answers, model, results];

async function verify(bytes, options) {
  const checks = [];
  let read;
  try { read = await readBundle(bytes); } catch (error) {
    return [{check: "files", ok: false, compared: "", problems: [error instanceof Bad ? error.message : "index.json is not in its one form"]}];
  }
  checks.push({check: "files", ok: true, compared: `${Object.keys(read.files).length + Boolean(read.model)} files, as the index lists them`, problems: []});
  const b = await openBundle(read.files, read.model, options);
  for (const work of CHECKS) {
    const problems = [];
    let compared = "";
    try { compared = await work(b, problems); } catch (error) {
      problems.push(error instanceof Bad ? error.message : "what it needs is missing, or not in the form that this version knows");
    }
    checks.push({check: work.name, ok: problems.length === 0, compared, problems});
  }
  return checks;
}
