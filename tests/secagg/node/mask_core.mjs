// The mask core of FSA-1, written a second time from the specification (docs/secagg.md and the docstrings of locum.secagg),
// with nothing but Node's own crypto. It recomputes a frozen transcript and exits non-zero on any difference.
//
//     node tests/secagg/node/mask_core.mjs tests/secagg/vectors/transcript-v1.json
//
// All integers are little-endian; all elements of a ring are BigInt here, so that no trick of numpy's can be repeated.

import { createDecipheriv, createCipheriv, createHash, createPublicKey, hkdfSync, verify } from "node:crypto";
import { readFileSync } from "node:fs";

const LABEL = "locum/fsa-1/";
const PRIME = (1n << 256n) + 297n;
const SHARE = 33;
const SEED = 32;

// --- bytes ---------------------------------------------------------------------------------------------------------------

const unhex = (text) => {
  if (typeof text !== "string" || !/^([0-9a-f]{2})*$/.test(text)) throw new Error(`not hexadecimal: ${text}`);
  return Buffer.from(text, "hex");
};

const toBytes = (number, size) => {
  const out = Buffer.alloc(size);
  for (let i = 0, left = BigInt(number); i < size; i++, left >>= 8n) out[i] = Number(left & 255n);
  return out;
};

const toNumber = (bytes) => bytes.reduceRight((high, byte) => (high << 8n) | BigInt(byte), 0n);

const same = (what, ours, theirs) => {
  const [a, b] = [ours, theirs].map((v) => (Buffer.isBuffer(v) ? v.toString("hex") : JSON.stringify(v)));
  if (a !== b) throw new Error(`${what}: computed ${a.slice(0, 80)}, found ${b === undefined ? b : b.slice(0, 80)}`);
};

// --- kdf.py: labels, lists, hashes and keys ----------------------------------------------------------------------------------

const label = (name) => Buffer.from(LABEL + name, "ascii");

// Each part after its length in 8 bytes; a number is 8 bytes.
const join = (...parts) =>
  Buffer.concat(
    parts.flatMap((part) => {
      const raw = Buffer.isBuffer(part) ? part : typeof part === "number" ? toBytes(part, 8) : Buffer.from(part, "utf8");
      return [toBytes(raw.length, 8), raw];
    }),
  );

const sha256 = (bytes) => createHash("sha256").update(bytes).digest();
const labelled = (name, parts) => Buffer.concat([label(name), Buffer.alloc(1), join(...parts)]);
const digest = (name, ...parts) => sha256(labelled(name, parts));
const hkdf = (secret, salt, name, ...info) => Buffer.from(hkdfSync("sha256", secret, salt, labelled(name, info), 32));

// --- rings -------------------------------------------------------------------------------------------------------------------

// A keystream is cut into words: 16 bytes for 128 bits, 2 up to 16 bits, else 4.
const wordBytes = (bits) => (bits === 128 ? 16 : bits <= 16 ? 2 : 4);

// On the wire elements stand bit behind bit; where a ring has an odd number of half-bytes, they come in twos.
const wireBytes = ({ bits, size }) => ((bits % 8 ? size + (size % 2) : size) * bits) / 8;

const pack = (elements, group) => toBytes(elements.reduce((sum, e, i) => sum | (e << BigInt(i * group.bits)), 0n), wireBytes(group));

const unpack = (bytes, group) => {
  same("length on the wire", bytes.length, wireBytes(group));
  const all = toNumber(bytes);
  const elements = Array.from({ length: group.size }, (_, i) => BigInt.asUintN(group.bits, all >> BigInt(i * group.bits)));
  same("padding", pack(elements, group), bytes);
  return elements;
};

// --- masks.py ----------------------------------------------------------------------------------------------------------------

const maskKey = (seed, purpose, j, group) => hkdf(seed, j, "mask", purpose, group);

const keystream = (key, nbytes) => createCipheriv("aes-256-ctr", key, Buffer.alloc(16)).update(Buffer.alloc(nbytes));

const addStream = (elements, group, key, sign) => {
  const word = wordBytes(group.bits);
  const stream = keystream(key, word * group.size);
  return elements.map((e, i) => BigInt.asUintN(group.bits, e + BigInt(sign) * toNumber(stream.subarray(word * i, word * (i + 1)))));
};

// --- shamir.py ---------------------------------------------------------------------------------------------------------------

const mod = (a) => ((a % PRIME) + PRIME) % PRIME;

const power = (base, exponent) => {
  let out = 1n;
  for (let b = mod(base), e = exponent; e; e >>= 1n, b = mod(b * b)) if (e & 1n) out = mod(out * b);
  return out;
};

// f(0) from the shares of holders x - 1, by Lagrange.
const combine = (shares) => {
  const points = Object.entries(shares).map(([holder, share]) => [BigInt(holder) + 1n, toNumber(unhex(share))]);
  let secret = 0n;
  for (const [x, y] of points) {
    let [top, bottom] = [1n, 1n];
    for (const [other] of points) if (other !== x) [top, bottom] = [mod(top * other), mod(bottom * (other - x))];
    secret = mod(secret + y * top * power(bottom, PRIME - 2n));
  }
  if (secret >> 256n) throw new Error("the shares give no secret");
  return toBytes(secret, 32);
};

// --- messages.py: just enough CBOR -------------------------------------------------------------------------------------------

const decodeCbor = (bytes) => {
  let at = 0;
  const argument = (info) => {
    if (info < 24) return info;
    const size = { 24: 1, 25: 2, 26: 4 }[info];
    if (!size) throw new Error("CBOR that this does not read");
    at += size;
    return bytes.readUIntBE(at - size, size);
  };
  const item = () => {
    const head = bytes[at++];
    const length = argument(head & 31);
    switch (head >> 5) {
      case 0:
        return length;
      case 2:
      case 3: {
        at += length;
        if (at > bytes.length) throw new Error("CBOR that ends too soon");
        const piece = bytes.subarray(at - length, at);
        return head >> 5 === 2 ? piece : piece.toString("utf8");
      }
      case 4:
        return Array.from({ length }, item);
      case 5:
        return Object.fromEntries(Array.from({ length }, () => [item(), item()]));
      default:
        throw new Error("CBOR that this does not read");
    }
  };
  const value = item();
  if (at !== bytes.length) throw new Error("bytes after the message");
  return value;
};

// --- sealing and signing -------------------------------------------------------------------------------------------------------

// AES-256-GCM with a zero nonce, for each key encrypts one message.
const open = (key, sealed, aad) => {
  const decipher = createDecipheriv("aes-256-gcm", key, Buffer.alloc(12));
  decipher.setAAD(aad);
  decipher.setAuthTag(sealed.subarray(-16));
  return Buffer.concat([decipher.update(sealed.subarray(0, -16)), decipher.final()]);
};

const checkSignature = (what, publicKey, name, message, signature) => {
  const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x: publicKey.toString("base64url") }, format: "jwk" });
  if (!verify(null, Buffer.concat([label(name), Buffer.alloc(1), message]), key, signature)) throw new Error(`${what} is not signed`);
};

// --- graph.py ------------------------------------------------------------------------------------------------------------------

const shake = (kind, bytes, outputLength) => createHash(kind, { outputLength }).update(bytes).digest();

const permutation = (n, seed, t) => {
  const stream = shake("shake256", labelled("graph", [seed, t]), 16 * n);
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Number(toNumber(stream.subarray(16 * i, 16 * i + 16)) % BigInt(i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
};

const checkGraph = ({ n, k, t, seed, order, neighbours }) => {
  if (k % 2) throw new Error(`${k} neighbours cannot be half on either side`);
  same("order", permutation(n, unhex(seed), t), order);
  const around = Array.from({ length: n }, () => []);
  order.forEach((site, place) => {
    for (let d = 1; d <= k / 2; d++) around[site].push(order[(place + d) % n], order[(place - d + n) % n]);
    around[site].sort((a, b) => a - b);
  });
  same("neighbours", around, neighbours);
};

const checkSigns = ({ seed, minus }) =>
  same("signs", shake("shake128", Buffer.concat([label("signs"), Buffer.alloc(1), unhex(seed)]), minus.length / 2), unhex(minus));

// --- one round -----------------------------------------------------------------------------------------------------------------

const checkRound = (round) => {
  const manifest = unhex(round.manifest);
  const j = unhex(round.j);
  const numbers = Object.keys(round.sites).map(Number);
  const groups = Object.entries(round.groups);
  const joins = {};
  const dealt = {}; // dealt[owner][holder] = the shares of b and of K, opened with the holder's channel

  // JOIN: who it is, what it commits to, and what it seals for each neighbour
  for (const i of numbers) {
    const site = round.sites[i];
    const body = (joins[i] = decodeCbor(unhex(site.join)));
    same(`${i}: commitment to b`, digest("commit b", manifest, i, unhex(site.b)), body.commit_b);
    same(`${i}: commitment to K`, digest("commit k", manifest, i, unhex(site.k)), body.commit_k);
    const own = digest("join", manifest, i, join(...body.neighbours), body.commit_b, body.commit_k, sha256(join(...body.shares)), sha256(body.escrow));
    same(`${i}: digest of JOIN`, own, unhex(site.digest));
    checkSignature(`${i}: JOIN`, unhex(site.public), "join", own, body.signature);
    same(`${i}: whose roots`, Object.keys(site.roots).map(Number), body.neighbours);
    same(`${i}: whose pair seeds`, Object.keys(site.pairs).map(Number), body.neighbours);
    same(`${i}: neighbours in the complete graph`, body.neighbours, [...Array(round.n).keys()].filter((to) => to !== i));
    dealt[i] = {};
    body.neighbours.forEach((to, place) => {
      let root = unhex(site.roots[to]);
      for (let t = 0; t < round.t; t++) root = hkdf(root, Buffer.alloc(0), "ratchet");
      same(`${i}: seed shared with ${to}`, hkdf(root, manifest, "pair"), unhex(site.pairs[to]));
      if (round.sites[to]) same(`${i}: the same root at ${to}`, site.roots[to], round.sites[to].roots[i]);
      const plain = open(hkdf(root, manifest, "channel", i, to), body.shares[place], join(manifest, i, to));
      same(`${i}: length of the shares for ${to}`, plain.length, 2 * SHARE);
      dealt[i][to] = { b: plain.subarray(0, SHARE), k: plain.subarray(SHARE) };
    });
    const escrow = Buffer.concat(body.neighbours.map((to) => unhex(site.pairs[to])));
    same(`${i}: escrow`, open(unhex(site.k), body.escrow, join(manifest, i)), escrow);
  }

  // J: the manifest, the session, its seed, and every JOIN by number and digest
  const parts = numbers.flatMap((i) => [i, unhex(round.sites[i].digest)]);
  same("J", digest("joined", manifest, unhex(round.session), unhex(round.seed), ...parts), j);

  // MASKED and CONFIRM
  const confirmation = digest("confirm", manifest, j, digest("survivors", ...round.u2));
  same("U2", numbers.filter((i) => round.sites[i].y), round.u2);
  for (const i of round.u2) {
    const site = round.sites[i];
    const near = joins[i].neighbours.filter((to) => round.sites[to]);
    same(`${i}: signs`, site.signs, Object.fromEntries(near.map((to) => [to, i < to ? 1 : -1])));
    for (const [name, group] of groups) {
      const keys = { self: maskKey(unhex(site.b), "self", j, name) };
      for (const to of near) keys[to] = maskKey(unhex(site.pairs[to]), "pair", j, name);
      same(`${i}: keys of ${name}`, Object.fromEntries(Object.entries(keys).map(([who, key]) => [who, key.toString("hex")])), site.keys[name]);
      let y = addStream(unpack(unhex(site.x[name]), group), group, keys.self, 1);
      for (const to of near) y = addStream(y, group, keys[to], i < to ? 1 : -1);
      same(`${i}: y of ${name}`, pack(y, group), unhex(site.y[name]));
    }
    checkSignature(`${i}: CONFIRM`, unhex(site.public), "confirm", confirmation, decodeCbor(unhex(site.confirm)).signature);
  }

  // UNMASK: own b; shares of b of the neighbours that survive, and of K of those that do not
  const known = {};
  for (const i of numbers.filter((n) => round.sites[n].unmask)) {
    const answer = decodeCbor(unhex(round.sites[i].unmask));
    same(`${i}: b`, answer.b, unhex(round.sites[i].b));
    known[i] = answer.b;
    const near = joins[i].neighbours.filter((to) => round.sites[to]);
    for (const which of ["b", "k"]) {
      const about = near.filter((to) => round.u2.includes(to) === (which === "b"));
      const expected = Object.fromEntries(about.map((to) => [to, dealt[to][i][which].toString("hex")]));
      const given = Object.entries(answer[`shares_${which}`]).map(([to, share]) => [to, share.toString("hex")]);
      same(`${i}: shares of ${which}`, Object.fromEntries(given), expected);
    }
  }

  // What is not known comes from shares: b of a survivor, K of one that dropped out, and with K its escrow
  const removed = {}; // the pair seeds of those that dropped out
  for (const { site, secret, threshold, shares, value, escrow } of round.recovered) {
    same(`${site}: how many shares`, Object.keys(shares).length, threshold);
    for (const [holder, share] of Object.entries(shares)) same(`${site}: share of ${holder}`, unhex(share), dealt[site][holder][secret]);
    const found = combine(shares);
    same(`${site}: ${secret} from its shares`, found, unhex(value));
    same(`${site}: its commitment`, digest(`commit ${secret}`, manifest, site, found), joins[site][`commit_${secret}`]);
    if (secret === "b") {
      known[site] = found;
    } else {
      same(`${site}: sealed escrow`, unhex(escrow.sealed), joins[site].escrow);
      same(`${site}: AAD of the escrow`, join(manifest, site), unhex(escrow.aad));
      const plain = open(found, unhex(escrow.sealed), unhex(escrow.aad));
      same(`${site}: escrow`, plain, unhex(escrow.plain));
      removed[site] = Object.fromEntries(joins[site].neighbours.map((to, at) => [to, plain.subarray(SEED * at, SEED * (at + 1))]));
    }
  }
  same("who dropped out", Object.keys(removed).map(Number), numbers.filter((i) => !round.u2.includes(i)));

  // The sum: y of the survivors, less their self masks, less what is left of the masks shared with those that dropped out
  for (const [name, group] of groups) {
    const zeros = Array(group.size).fill(0n);
    const add = (a, b) => a.map((e, i) => BigInt.asUintN(group.bits, e + b[i]));
    let sum = round.u2.map((i) => unpack(unhex(round.sites[i].y[name]), group)).reduce(add, zeros);
    for (const i of round.u2) {
      sum = addStream(sum, group, maskKey(known[i], "self", j, name), -1);
      for (const [gone, seeds] of Object.entries(removed)) if (seeds[i]) sum = addStream(sum, group, maskKey(seeds[i], "pair", j, name), i < gone ? -1 : 1);
    }
    same(`sum of ${name}`, pack(sum, group), unhex(round.sum[name]));
    const plain = round.u2.map((i) => unpack(unhex(round.sites[i].x[name]), group)).reduce(add, zeros);
    same(`plain sum of ${name}`, pack(plain, group), unhex(round.sum[name]));
  }
};

// --- the file --------------------------------------------------------------------------------------------------------------------

const transcript = JSON.parse(readFileSync(process.argv[2], "utf8"));
let failed = 0;

const attempt = (name, check) => {
  try {
    check();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`DIFFERS ${name}: ${error.message}`);
  }
};

attempt("version", () => same("version", LABEL, transcript.version));
for (const round of transcript.cases) attempt(round.name, () => checkRound(round));
for (const graph of transcript.graphs) attempt(`graph of ${graph.n} sites`, () => checkGraph(graph));
attempt("signs of the rotation", () => checkSigns(transcript.signs));
if (transcript.cases.length === 0) failed += 1;
process.exit(failed ? 1 : 0);
