"""Ways to weaken the peer round that a test must notice: one changed line each, and why it would matter. `tests/mutation.py` tries them."""

from __future__ import annotations

from mutation import Mutant

SOURCE = TESTS = "secagg"
S, R, M, U = "test_session.py", "test_round.py", "test_malicious.py", "test_indistinguishable.py"

MUTANTS = [
    # --- site: what is checked before anything is given ---
    Mutant(
        "site.py", " or len(request.signatures) < need:", ":", "two lists of survivors could both be unmasked", (R, "request_without_its_quorum"), core=True
    ),
    Mutant("parameters.py", "return 2 * n // 3 + 1", "return n // 2 + 1", "halves are no quorum", (R, "request_without_its_quorum"), core=True),
    Mutant(
        "site.py",
        "if not set(request.signatures) <= set(survivors) or ",
        "if ",
        "who dropped out would help to confirm that it did",
        (R, "request_without_its_quorum"),
    ),
    Mutant(
        "site.py",
        'if not manifest.keys[manifest.roster[i]].verify(label("confirm"), signature, message):',
        "if False:",
        "the coordinator would confirm its own list",
        (R, "request_without_its_quorum"),
        core=True,
    ),
    Mutant(
        "site.py",
        "    _verify_joins(manifest, {i: roster.joined[i] for i in near})\n",
        "",
        "neighbours could be invented",
        (R, "lie_about_who_joined"),
        core=True,
    ),
    Mutant(
        "site.py",
        "    _verify_joins(manifest, {i: secrets.joined[i] for i in joined - near - {number}})\n",
        "",
        "sites that are no neighbours could be invented, and count for the quorum",
        (R, "forged_join_of_a_site_that_is_no_neighbour"),
    ),
    Mutant(
        "site.py", " or roster.joined[number][0] != secrets.own:", ":", "others would have shares of another b and K", (R, "lie_about_who_joined"), core=True
    ),
    Mutant("site.py", "if secrets.phase != phase:", "if False:", "two lists could be confirmed and unmasked", (R, "once or nothing_is_confirmed"), core=True),
    Mutant(
        "site.py", "if secrets.manifest != manifest.digest:", "if False:", "another round's messages would be taken", (R, "another_manifest or did_not_join")
    ),
    Mutant("site.py", "if number not in alive:", "if False:", "who was dropped would give its b as well", (R, "not_allowed_is_refused")),
    Mutant("site.py", "if survivors != secrets.survivors:", "if False:", "a site would stand behind two lists", (R, "request_without_its_quorum")),
    Mutant("site.py", "for i in sorted(near - alive)})", "for i in sorted(near)})", "b and K of one site: all that it masked", (R, "never_given"), core=True),
    Mutant(
        "site.py",
        "    erase(secrets)\n    return encode(body)",
        "    return encode(body)",
        "a stolen disk would open the round",
        (R, "no_seed_is_left"),
        core=True,
    ),
    Mutant(
        "site.py", "if not topology.connected(number, joined):", "if False:", "colluders alone could be its neighbours", (R, "too_few_neighbours_in_its_bucket")
    ),
    Mutant("site.py", "if set(roster.shares) != near:", "if False:", "a site could not give the shares that others need", (R, "lie_about_who_joined")),
    Mutant("site.py", "    topology.check_joined(", "    False and topology.check_joined(", "U1 could be of the coordinator's choice", (R, "joined or joins")),
    Mutant(
        "site.py",
        "    topology.check_survivors(",
        "    False and topology.check_survivors(",
        "the sum could be over few",
        (R, "survivors"),
        core=True,
    ),
    Mutant("site.py", "if any(a >= b ", "if any(a > b ", "one site could be counted twice", (R, "not_allowed_is_refused")),
    Mutant(
        "site.py",
        "need, message = topology.quorum, ",
        "need, message = 2 * len(secrets.joined) // 3 + 1, ",
        "two lists of who joined could both be unmasked: b in one, K in the other",
        (M, "are_not_both_unmasked and 7"),
        core=True,
    ),
    # --- site: what is given, and under which key ---
    Mutant("site.py", '[Stream(secrets.b, "self", 1), *(', "[*(", "late vectors would lie open", (R, "forty")),
    Mutant(
        "site.py",
        "for i in sorted(near))]",
        "for i in ())]",
        "with b gone x would lie open, and the sum is still exact",
        (M, "honest_round_the_agreed"),
        core=True,
    ),
    Mutant("site.py", '"pair", 1 if number < i else -1)', '"pair", 1)', "pair masks would not cancel", (R, "forty")),
    Mutant(
        "site.py",
        "b, k = entropy(KEY_BYTES), entropy(KEY_BYTES)",
        "b = k = entropy(KEY_BYTES)",
        "a share of K is one of b",
        (R, "secrets_of_its_own"),
        core=True,
    ),
    Mutant(
        "site.py",
        'manifest.digest, "channel", sender, receiver)',
        'manifest.digest, "channel", *sorted((sender, receiver)))',
        "two messages under one AES-GCM key and nonce",
        (R, "sealed_under_one_key"),
        core=True,
    ),
    Mutant(
        "site.py",
        'session.roots[names[i]], manifest.digest, "pair")',
        'session.roots[names[i]], b"", "pair")',
        "two models in one round could share masks",
        (M, "two_manifests_do_not_cancel"),
    ),
    Mutant("site.py", "    session.advance(manifest.t + 1)\n", "", "a round could be joined twice", (R, "stale"), core=True),
    Mutant(
        "site.py",
        "body.commit_b, body.commit_k, shares, escrow)",
        "body.commit_b, shares, escrow)",
        "part of a JOIN could be replaced",
        (R, "join_says_is_signed"),
    ),
    Mutant("site.py", "body.commit_k, shares, escrow)", "body.commit_k, shares)", "an escrow could be replaced", (R, "join_says_is_signed")),
    # --- topology: who may be in the sum ---
    Mutant("topology.py", "if count < n_min:", "if False:", "the sum could be over few", (R, "minimum"), core=True),
    Mutant(
        "topology.py", "if lost > most:", "if False:", "the coordinator could drop whom it likes", (R, "not_allowed_is_refused or bucket_may_not"), core=True
    ),
    Mutant("topology.py", "if not survivors <= joined:", "if False:", "sites without masks would count", (R, "not_allowed_is_refused")),
    Mutant("topology.py", "if not joined <= self.cohort:", "if False:", "the coordinator could add sites", (R, "lie_about_who_joined or not_in_the_session")),
    Mutant("topology.py", "if least < manifest.minimum:", "if False:", "a cohort below the minimum would begin", (R, "below_the_minimum_is_not_joined")),
    Mutant(
        "topology.py",
        "        return max(self.n_min, self.own_min)",
        "        return self.n_min",
        "a site's own minimum would not hold",
        (R, "asks_for_itself"),
    ),
    Mutant(
        "topology.py",
        "manifest.digest, session, seed, *(part for i in sorted(joined) for part in (i, joined[i])))",
        "manifest.digest, session, seed)",
        "two lists of who joined would share masks",
        (M, "masks_of_two_views"),
        core=True,
    ),
    Mutant(
        "topology.py",
        'digest("confirm", manifest.digest, j, ',
        'digest("confirm", manifest.digest, ',
        "signatures in one view would count in another",
        (M, "on_one_list"),
    ),
    Mutant(
        "topology.py",
        "manifest.digest, j, survivors_digest(survivors))",
        "manifest.digest, j)",
        "a signature would stand for any list",
        (R, "request_without_its_quorum"),
    ),
    Mutant("topology.py", "if len(joined) < self.quorum:", "if False:", "vectors would be masked for a round that cannot end", (R, "lie_about_who_joined")),
    Mutant("topology.py", "if not p.complete and missing > most:", "if False:", "the graph could be cut", (R, "than_a_graph_was_drawn_for"), core=True),
    # --- parameters ---
    Mutant(
        "parameters.py",
        "n - 1, 2 * n // 3 + 1)",
        "n - 1, n // 2 + 1)",
        "both secrets of a site could be had",
        (R, "tolerate_no_dropout or fewer_than_tau"),
        core=True,
    ),
    Mutant("parameters.py", "return ceil(share * joined - 1e-9)", "return joined", "the coordinator could drop whom it likes", (R, "not_allowed_is_refused")),
    # --- session ---
    Mutant(
        "session.py",
        "if own is None or own.commitment != _commitment(setup, me, pending.nonce) or own.public != setup.suite.public(pending.private):",
        "if own is None:",
        "an earlier attempt's key could be played back",
        (S, "lie_in_the_list_of_keys"),
    ),
    Mutant("session.py", "if len(listed) < setup.n_min:", "if False:", "a session of few", (S, "lie_in_the_list_of_keys")),
    Mutant(
        "session.py",
        'if not key.verify(label("keys"), ',
        'if False and not key.verify(label("keys"), ',
        "man in the middle",
        (S, "lie_in_the_list_of_keys"),
        core=True,
    ),
    Mutant("session.py", "if len(members) < setup.n_min:", "if False:", "a session of few", (S, "lie_about_what_was_sealed")),
    Mutant(
        "session.py",
        "if pending.keys[name][1] != _commitment(setup, name, nonce):",
        "if False:",
        "the last to speak would choose the graph",
        (S, "lie_about_what_was_sealed"),
        core=True,
    ),
    Mutant(
        "session.py",
        'if not setup.keys[name].verify(label("sealed"), ',
        'if False and not setup.keys[name].verify(label("sealed"), ',
        "man in the middle",
        (S, "lie_about_what_was_sealed"),
        core=True,
    ),
    Mutant(
        "session.py",
        'digest("nonce", setup.id, name, nonce)',
        'digest("nonce", setup.id, nonce)',
        "a commitment could be copied",
        (S, "colluder_cannot_commit"),
        core=True,
    ),
    Mutant("session.py", "for part in (name, nonces[name])", "for part in (name,)", "the coordinator would know the graph beforehand", (S, "seed_depends")),
    Mutant("session.py", "        if t < self.t:\n", "        if False:\n", "a round could be taken again", (S, "is_over"), core=True),
    Mutant(
        "session.py",
        "for _ in range(t - self.t):",
        "for _ in range(0):",
        "a site taken tomorrow would open yesterday",
        (S, "round_has_another_root or old_root"),
        core=True,
    ),
    Mutant(
        "session.py",
        "secrets[name] = entropy(KEY_BYTES)",
        "secrets[name] = next(iter(secrets.values()), None) or entropy(KEY_BYTES)",
        "a colluder would know what was sealed for others",
        (S, "says_nothing_about"),
    ),
    Mutant("session.py", "    if pending.secrets:\n", "    if False:\n", "the list of keys could be chosen to fit the nonces", (S, "seals_once"), core=True),
    Mutant("session.py", '"root", low, high, seed)', '"root", low, high)', "one view's shares would open in another's", (S, "two_lists_of_members"), core=True),
    Mutant(
        "session.py",
        '            setup.suite.seal(keys.public, bytes(KEY_BYTES), b"")',
        "            pass",
        "one site could stop every set-up",
        (S, "unusable_session_key"),
    ),
    # --- masks and shares ---
    Mutant(
        "masks.py",
        'hkdf(seed, transcript, "mask", purpose, group)',
        'hkdf(seed, b"", "mask", purpose, group)',
        "J would bind nothing",
        (M, "masks_of_two_views"),
        core=True,
    ),
    Mutant(
        "masks.py",
        'hkdf(seed, transcript, "mask", purpose, group)',
        'hkdf(seed, transcript, "mask", purpose)',
        "two groups under one keystream",
        (U, "never_repeats"),
    ),
    Mutant("masks.py", "part[0] * ring.itemsize)", "0)", "two halves under one keystream", (R, "chunks_and_threads")),
    Mutant("shamir.py", "for _ in range(threshold - 1)]", "for _ in range(threshold - 2)]", "tau - 1 shares would suffice", (M, "lower_threshold"), core=True),
    Mutant("shamir.py", "x, value = holder + 1, 0", "x, value = holder, 0", "the first holder's share would be the secret", (R, "forty")),
    # --- coordinator: exactness, and who is left out ---
    Mutant(
        "cohort.py",
        "if commit(which, manifest, number, secret) == expected:",
        "if True:",
        "one corrupt share would spoil the model",
        (R, "at_the_edge"),
    ),
    Mutant("cohort.py", "-1 if i < gone else 1)", "1 if i < gone else -1)", "dropouts would spoil the model", (R, "forty")),
    Mutant("cohort.py", " and signed:", ":", "one forged JOIN would make all others refuse", (R, "leaves_out_a_bad_join")),
    Mutant(
        "cohort.py",
        'if own and commit("b", manifest, number, own.b) == u1.joins[number].commit_b:',
        "if own:",
        "one wrong b would spoil the model",
        (R, "wrong_b"),
    ),
    Mutant(
        "cohort.py",
        ' and manifest.keys[manifest.roster[number]].verify(label("confirm"), signature, message):',
        ":",
        "one bad confirmation would make all others refuse",
        (R, "only_good_confirmations"),
    ),
]
"""Equivalent, and so not here: `<=` for `<` in the sign of a pair mask, for nobody is a neighbour of itself."""
