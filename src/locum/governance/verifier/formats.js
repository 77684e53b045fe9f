// What the page reads: the zip archive, canonical JSON (RFC 8785), Ed25519 envelopes (RFC 8032), Merkle proofs (RFC 9162, 2.1.3.2) and
// checkpoints (C2SP signed-note, tlog-cosignature). Only what every browser has: WebCrypto and DecompressionStream.
"use strict";

class Bad extends Error {}
const SCHEMA = "locum/audit-bundle/1", INDEX = "index.json", MODEL = "model.safetensors";
const FIXED = ["complete.json", "entries.json", "checkpoint.txt", "keys.json", "manifest.json", "results.json", "rosters.json", "study.json"];
const MOST_FILES = 100002, MOST_BYTES = 256 * 2 ** 20, MOST_MODEL_BYTES = 2 ** 31;
const encode = (text) => new TextEncoder().encode(text);
const decode = (bytes) => new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(bytes);
const hex = (bytes) => Array.from(bytes, (x) => x.toString(16).padStart(2, "0")).join("");
const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);

function unhex(text) {
  if (!/^([0-9a-f]{2})*$/.test(text)) throw new Error("not hexadecimal");
  return Uint8Array.from(text.match(/../g) ?? [], (x) => parseInt(x, 16));
}

function join(...parts) {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) { out.set(part, at); at += part.length; }
  return out;
}

function unb64(text) {
  if (typeof text !== "string" || !/^[A-Za-z0-9_-]*$/.test(text)) throw new Error("not base64");
  return Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
}

function unstandard(text) {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4) throw new Error("not base64");
  return unb64(text.replace(/=+$/, "").replace(/\+/g, "-").replace(/\//g, "_"));
}

function number(value) {
  if (!Number.isSafeInteger(value) || value < 0) throw new Error("not a whole number");
  return value;
}

const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", join(...parts)));
const digest = async (text) => hex(await sha256(typeof text === "string" ? encode(text) : text));

function canonical(value) {
  if (Array.isArray(value)) return "[" + value.map(canonical).join(",") + "]";
  if (value !== null && typeof value === "object") {
    return "{" + Object.keys(value).sort().map((k) => JSON.stringify(k) + ":" + canonical(value[k])).join(",") + "}";
  }
  return JSON.stringify(value);
}

// Whether an object of valid JSON gives a key twice.
function twice(text) {
  const open = [];
  for (const token of text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?|[{}]/g)) {
    if (token[0] === "{") open.push(new Set());
    else if (token[0] === "}") open.pop();
    else if (token[1]) {
      const key = JSON.parse(token[0].slice(0, -token[1].length));
      if (open.at(-1).has(key)) return true;
      open.at(-1).add(key);
    }
  }
  return false;
}

function parse(text, what, oneForm = true) {
  let value;
  try { value = JSON.parse(text); } catch { throw new Bad(`${what} is not valid JSON`); }
  if (twice(text)) throw new Bad(`${what} gives a key twice`);
  if (oneForm && canonical(value) !== text) throw new Bad(`${what} is not in canonical form`);
  return value;
}

async function fingerprint(raw) {
  return hex(await sha256(encode("locum/key/1\0"), raw)).slice(0, 16).match(/.{4}/g).join("-");
}

// Keys whose point has an order of at most 8: one signature is good for many texts. Not every library refuses them.
const P = (1n << 255n) - 19n;
const EIGHT = [0n, 1n, P - 1n, 0x05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826n, 0x7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7n];
function small(key) {
  const y = BigInt("0x" + hex(Uint8Array.from(key).reverse())) & ((1n << 255n) - 1n);
  return EIGHT.includes(y % P);
}

const KEYS = new Map();
async function signed(key, signature, message) {
  const name = hex(key);
  try {
    if (key.length !== 32 || small(key)) return false;
    if (!KEYS.has(name)) KEYS.set(name, await crypto.subtle.importKey("raw", key, "Ed25519", false, ["verify"]));
    return await crypto.subtle.verify("Ed25519", KEYS.get(name), signature, message);
  } catch { return false; }
}

async function included(n, size, entry, proof, root) {
  let position = n, last = size - 1, here = await sha256(Uint8Array.of(0), entry);
  const half = (x) => Math.floor(x / 2);
  for (const sibling of proof) {
    if (last === 0 || sibling.length !== 32) return false;
    if (position % 2 || position === last) {
      here = await sha256(Uint8Array.of(1), sibling, here);
      while (position % 2 === 0 && position) { position = half(position); last = half(last); }
    } else {
      here = await sha256(Uint8Array.of(1), here, sibling);
    }
    position = half(position);
    last = half(last);
  }
  return last === 0 && same(here, root);
}

function parseNote(note) {
  const cut = note.indexOf("\n\n"), [origin, size, root, ...more] = note.slice(0, cut).split("\n");
  const lines = note.slice(cut + 2).split("\n");
  if (cut < 0 || lines.pop() !== "" || more.length || !/^(0|[1-9][0-9]{0,15})$/.test(size) || !Number.isSafeInteger(Number(size))) throw new Bad("the checkpoint is not in its one form");
  const read = lines.map((line) => line.split(" "));
  if (read.some((x) => x.length !== 3 || x[0] !== "—") || unstandard(root).length !== 32) throw new Bad("the checkpoint is not in its one form");
  return {text: note.slice(0, cut + 1), origin, size: Number(size), root: unstandard(root), lines: read.map((x) => [x[1], unstandard(x[2])])};
}

const noteId = async (name, kind, key) => (await sha256(encode(name + "\n"), Uint8Array.of(kind), key)).slice(0, 4);

async function openEnvelope(text, sender, keys, expected) {
  const raw = text.length <= 8192 ? unb64(text) : new Uint8Array(0), payload = raw.slice(64);
  let good = false;
  for (const key of keys) good = good || await signed(key, raw.slice(0, 64), join(encode("locum/envelope/1\0"), payload));
  if (!good) throw new Bad(`it is not signed by ${sender}'s key`);
  const value = parse(decode(payload), "an envelope", false), absent = {run: "", seq: -1};
  for (const [name, wanted] of Object.entries({sender, ...expected})) {
    if ((Object.hasOwn(value, name) ? value[name] : absent[name]) !== wanted) throw new Bad(`it was made for another ${name}: it is replayed or stale`);
  }
  return value;
}

// --- the archive ---------------------------------------------------------------------------------------------------------

function directory(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length), end = bytes.length - 22, broken = new Bad("the bundle cannot be read as a zip file");
  if (end < 0 || view.getUint32(end, true) !== 0x06054b50 || view.getUint16(end + 20, true)) throw broken;
  const second = end >= 20 && view.getUint32(end - 20, true) === 0x07064b50;
  if (second) throw new Bad("it has two directories, or is larger than this page reads: use verify.py");
  const members = [];
  let at = view.getUint32(end + 16, true);
  for (let i = view.getUint16(end + 10, true); i > 0; i--) {
    if (at + 46 > end || view.getUint32(at, true) !== 0x02014b50) throw broken;
    const [name, extra, comment] = [28, 30, 32].map((o) => view.getUint16(at + o, true)), local = view.getUint32(at + 42, true);
    const text = decode(bytes.subarray(at + 46, at + 46 + name));
    if (local + 30 > end || view.getUint32(local, true) !== 0x04034b50 || decode(bytes.subarray(local + 30, local + 30 + view.getUint16(local + 26, true))) !== text) throw broken;
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true), packed = view.getUint32(at + 20, true);
    if (start + packed > end) throw broken;
    members.push({name: text, local, link: view.getUint32(at + 38, true) >>> 28 === 0xa, flags: view.getUint16(at + 8, true), method: view.getUint16(at + 10, true), body: bytes.subarray(start, start + packed)});
    at += 46 + name + extra + comment;
  }
  return members;
}

async function unpack(member, limit, left) {
  const long = new Bad(`'${member.name}' is longer than the index says, or than a bundle may be`), pieces = [];
  const stream = member.method === 8 ? new Blob([member.body]).stream().pipeThrough(new DecompressionStream("deflate-raw")) : new Blob([member.body]).stream();
  const reader = stream.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      limit -= next.value.length;
      left.bytes -= next.value.length;
      if (limit < 0 || left.bytes < 0) throw long;
      pieces.push(next.value);
    }
  } catch (error) {
    reader.cancel().catch(() => {});
    throw error === long ? long : new Bad("the bundle cannot be read as a zip file");
  }
  return join(...pieces);
}

const known = (name) => FIXED.includes(name) || name === MODEL || /^rounds\/[0-9]{6}\.json$/.test(name);

async function readBundle(bytes) {
  const members = directory(bytes), by = new Map(), left = {bytes: MOST_BYTES};
  if (!members.length || Math.min(...members.map((m) => m.local))) throw new Bad("there is more in the file than the archive");
  if (members.length > MOST_FILES) throw new Bad("it has more files than a bundle may have");
  for (const m of members) {
    if (by.has(m.name)) throw new Bad(`'${m.name.slice(0, 80)}' is there twice`);
    by.set(m.name, m);
  }
  for (const m of members) {
    if (m.name !== INDEX && !known(m.name)) throw new Bad(`'${m.name.slice(0, 80)}' is an extra file, or its name leads out of the bundle`);
    if (m.flags & 1 || ![0, 8].includes(m.method)) throw new Bad(`'${m.name}' is encrypted, or packed in a way that is not read here`);
    if (m.link) throw new Bad(`'${m.name}' is a link, or goes by another name as well`);
  }
  if (!by.has(INDEX)) throw new Bad(`${INDEX} is missing`);
  const index = parse(decode(await unpack(by.get(INDEX), MOST_BYTES, left)), INDEX);
  if (index.schema !== SCHEMA) throw new Bad("it is a bundle of another version");
  const listed = Object.keys(index.files);
  for (const name of [...new Set([...FIXED, ...listed])].sort()) if (!by.has(name)) throw new Bad(`'${name}' is missing`);
  for (const name of [...by.keys()].sort()) if (name !== INDEX && !listed.includes(name)) throw new Bad(`'${name}' is an extra file: the index does not list it`);
  const files = {};
  let model = "";
  for (const name of listed.sort()) {
    const body = await unpack(by.get(name), number(index.files[name].bytes), name === MODEL ? {bytes: MOST_MODEL_BYTES} : left), found = await digest(body);
    if (found !== index.files[name].sha256) throw new Bad(`'${name}' is not the file that the index lists: it was altered`);
    if (name === MODEL) model = found; else files[name] = decode(body);
  }
  return {files, model};
}
