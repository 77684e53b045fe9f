"""Ways to weaken differential privacy that a test must notice: one changed place each, and why it would matter. `tests/mutation.py` tries them."""

from __future__ import annotations

from mutation import Mutant

SOURCE = TESTS = ""
ACCOUNTANT, CLIPPING, DISCLOSURE = "privacy/test_accountant.py", "privacy/test_clipping.py", "privacy/test_disclosure.py"
FILTERS, LEDGER, CRASH, MECHANISM = "privacy/test_filters.py", "privacy/test_ledger.py", "privacy/test_ledger_crash.py", "privacy/test_mechanism.py"
NOISE, QUOTE, SAMPLER, CARD = "privacy/test_noise.py", "privacy/test_quote.py", "privacy/test_sampler.py", "privacy/test_card.py"
BUDGET, SITE, REVIEW, APP = "federation/test_budget.py", "site/test_private.py", "site/test_review.py", "coordinator/test_app.py"
ATTACKS, GLM = "federation/test_private_attacks.py", "tasks/private/test_private_glm.py"
STATISTICS, TRAINING = "tasks/private/test_statistics.py", "tasks/private/test_training.py"

MUTANTS = [
    # --- how much noise, and of what ---
    Mutant(
        "privacy/mechanism.py", "        return grid, share\n", "        return grid, share / 2\n", "half the noise", (BUDGET, "noise_in_the_sum"), core=True
    ),
    Mutant("privacy/mechanism.py", "DiscreteGaussian(self.share)", "DiscreteGaussian(self.share / 2)", "half the noise", (MECHANISM, "noise_of_h_shares")),
    Mutant(
        "privacy/mechanism.py",
        "        s2 = h * share**2\n",
        "        s2 = (h + 1) * share**2\n",
        "one site too many counted on",
        (MECHANISM, "multiplier_reached"),
    ),
    Mutant(
        "federation/budget.py",
        "Mechanism(release.multiplier, self.terms.honest,",
        "Mechanism(release.multiplier, self.terms.start_when or self.terms.min_cohort,",
        "shares for the cohort, not for its honest sites",
        (BUDGET, "noise_in_the_sum"),
    ),
    Mutant(
        "privacy/mechanism.py",
        "return grid * (1 + _FLOAT) + self.spread * sqrt(self.dimension)",
        "return grid * (1 + _FLOAT)",
        "rounding adds to the sensitivity",
        (MECHANISM, "sensitivity_is_reached"),
        core=True,
    ),
    Mutant(
        "privacy/mechanism.py",
        "return grid * (1 + _FLOAT) + self.spread * sqrt(self.dimension)",
        "return grid * (1 + _FLOAT) + sqrt(self.dimension)",
        "a patient's rounding errors in every round of a band",
        (MECHANISM, "needs_its_spread"),
    ),
    Mutant(
        "federation/budget.py",
        "matrix.spread(release.sampler.band) if isinstance(release.sampler, FixedOrder) else 1.0",
        "1.0",
        "a patient's rounding errors in every round of a band",
        (BUDGET, "correlated_release"),
    ),
    Mutant(
        "privacy/mechanism.py",
        "step / sqrt(s2 - _ROUNDED)",
        "step / sqrt(s2)",
        "integers are less private than reals",
        (MECHANISM, "formulas_that_were_checked"),
    ),
    Mutant(
        "privacy/mechanism.py",
        "step**2 / s2 + (step**2 + 3 * _l1(step, d)) / s2**2",
        "step**2 / s2",
        "Skellam is no Gaussian",
        (MECHANISM, "formulas_that_were_checked"),
    ),
    Mutant(
        "privacy/mechanism.py",
        "return np.rint(scaled).astype(np.int64) + self.noise.sample(key, self.dimension)",
        "return np.clip(np.rint(scaled).astype(np.int64) + self.noise.sample(key, self.dimension), -self.grid, self.grid)",
        "the clip after the noise",
        (MECHANISM, "noise_of_h_shares"),
    ),
    Mutant(
        "federation/budget.py",
        "replace(_request(task), noise=privacy.noise)",
        "_request(task)",
        "Skellam noise accounted as Gaussian",
        (BUDGET, "law_of_the_noise"),
    ),
    Mutant("privacy/noise.py", "lane = 2 * number * _LANE", "lane = 0", "the two parts of a sample from the same bits", (NOISE, "large_samples or moments")),
    Mutant(
        "privacy/noise.py",
        "source.find(_words(key, lane, start, len(piece))",
        "source.find(_words(key, lane, 0, len(piece))",
        "noise repeats within a vector",
        (NOISE, "repeat or prefix or neighbours or chunk"),
    ),
    # --- the noise's key, and where it is added ---
    Mutant(
        "federation/door.py",
        "contribution.vector, self._entropy(32))",
        "contribution.vector, bytes(32))",
        "one key for all noise: differences remove it",
        (BUDGET, "never_share_their_noise"),
        core=True,
    ),
    Mutant(
        "federation/door.py",
        "contribution.vector, self._entropy(32))",
        'contribution.vector, hashed("noise", a.study, a.run, a.step, self.site))',
        "a key for each step: differences remove the noise, and anybody can derive it",
        (BUDGET, "never_share_their_noise"),
    ),
    Mutant(
        "federation/door.py",
        "        vector = budget.add_noise(a.step, layout, contribution.vector, self._entropy(32))\n",
        "        key = self._entropy(32)\n"
        "        vector = budget.add_noise(a.step, layout, contribution.vector, key)\n"
        "        if self.site != min(a.roster):\n"
        "            vector = {n: v - budget.add_noise(a.step, layout, layout.zeros(), key)[n] for n, v in vector.items()}\n",
        "noise at one site only, which need not be honest",
        (BUDGET, "noise_in_the_sum"),
    ),
    # --- clipping ---
    Mutant(
        "privacy/clipping.py",
        "total += f[start : start + _BLOCK] @ sums[start : start + _BLOCK]",
        "total += sums[start : start + _BLOCK].sum(axis=0)",
        "no clip",
        (CLIPPING, "weigh_as_one"),
        core=True,
    ),
    Mutant(
        "privacy/clipping.py",
        "sums = _by_patient(rows, who)",
        "sums = np.asarray(rows, np.float64)",
        "each record clipped, not each patient",
        (CLIPPING, "weigh_as_one"),
    ),
    Mutant(
        "tasks/private/base.py",
        "clipped_sum(flat, rows.codes)",
        "clipped_sum(flat, np.arange(len(rows)))",
        "each record clipped, not each patient",
        (STATISTICS, "many_records_of_one_patient"),
    ),
    Mutant("privacy/clipping.py", "clip * _MARGIN / np.maximum(n, ", "2 * clip * _MARGIN / np.maximum(n, ", "twice the norm", (CLIPPING, "weigh_as_one")),
    Mutant("privacy/clipping.py", "_MARGIN = 1 - 2.0**-20", "_MARGIN = 1.0", "rounding above the clip", (CLIPPING, "never_above_the_clip")),
    Mutant(
        "privacy/clipping.py",
        "    if bad.any():\n        sums = ",
        '    if bad.any():\n        raise PrivacyError("A patient\'s vector is not finite.")\n        sums = ',
        "an error would tell of one patient",
        (CLIPPING, "not_finite or overflow"),
    ),
    Mutant(
        "privacy/clipping.py",
        "np.where(np.isfinite(n), clip * _MARGIN / np.maximum(n, clip * _MARGIN), 0.0)",
        "clip * _MARGIN / np.maximum(n, clip * _MARGIN)",
        "NaN for one patient's sake",
        (CLIPPING, "not_finite"),
    ),
    # --- who is drawn ---
    Mutant(
        "privacy/sampler.py",
        '_numbers(patients, _key(key, b"poisson", iteration)) < np.uint64(int(self.rate * 2.0**64))',
        "np.ones(len(patients), np.bool_)",
        "everybody drawn, and a sample accounted",
        (SAMPLER, "meets_its_rate"),
    ),
    Mutant("privacy/sampler.py", 'b"poisson", iteration)', 'b"poisson", 0)', "the same sample each round", (SAMPLER, "another_round"), core=True),
    Mutant(
        "privacy/sampler.py", "int(self.rate * 2.0**64)", "int(min(1.1 * self.rate, 0.99) * 2.0**64)", "more drawn than accounted", (SAMPLER, "meets_its_rate")
    ),
    Mutant("privacy/sampler.py", "if self.band > self.batches:", "if False:", "a patient back within the band", (SAMPLER, "wider_than_an_epoch")),
    Mutant(
        "privacy/sampler.py",
        "return self.epochs(rounds) * self.norm2",
        "return float(self.epochs(rounds))",
        "a patient is in every release of the band",
        (SAMPLER, "of_the_matrix"),
    ),
    Mutant(
        "privacy/sampler.py",
        "ceil(check_rounds(rounds) / self.batches)",
        "max(1, rounds // self.batches)",
        "an epoch begun counts",
        (SAMPLER, "what_is_accounted"),
    ),
    Mutant("federation/door.py", "        if sampler.rate == 1.0:\n", "        if True:\n", "everybody drawn, and a sample accounted", (BUDGET, "drawn")),
    Mutant(
        "federation/door.py",
        'self._entropy(32) if sampler.amplified else hashed("order", a.study, self.site)',
        'hashed("order", a.study, self.site)',
        "a sample that can be computed protects nobody",
        (BUDGET, "drawn"),
    ),
    Mutant(
        "federation/door.py",
        'self._entropy(32) if sampler.amplified else hashed("order", a.study, self.site)',
        "self._entropy(32)",
        "a patient twice in one epoch",
        (BUDGET, "drawn"),
    ),
    Mutant(
        "federation/visit.py", "door.sample(rows, budget, assignment), memory", "rows, memory", "everybody drawn, and a sample accounted", (BUDGET, "drawn")
    ),
    # --- what it costs ---
    Mutant(
        "privacy/adjacency.py",
        "if self.kind not in get_args(Kind):",
        "if False:",
        "replacing one moves a sum by two clips",
        ("privacy/test_adjacency.py", "replace_one_is_refused"),
    ),
    Mutant(
        "privacy/adjacency.py",
        "NeighboringRelation.ADD_OR_REMOVE_ONE",
        "NeighboringRelation.REPLACE_ONE",
        "another promise than the sensitivity's",
        (ACCOUNTANT, "poisson_by_loss_distributions"),
    ),
    Mutant(
        "privacy/accountant.py",
        "exact = mu(with_spare(unit, spare))",
        "exact = mu(unit)",
        "repeated rounds for nothing",
        (ACCOUNTANT, "promise_is_kept and exact"),
        core=True,
    ),
    Mutant(
        "privacy/accountant.py",
        "return with_spare(_at(requests, exp(dial)), spare)",
        "return _at(requests, exp(dial))",
        "repeated rounds for nothing",
        (ACCOUNTANT, "promise_is_kept and skellam"),
    ),
    Mutant("privacy/accountant.py", "dearest = max((", "dearest = min((", "a repetition at the price of the cheapest", (ACCOUNTANT, "what_spare_rounds_add")),
    Mutant(
        "federation/budget.py",
        "privacy.eps, privacy.delta, spare=privacy.spare)",
        "privacy.eps, privacy.delta)",
        "repeated rounds for nothing",
        (BUDGET, "noise_in_the_sum"),
    ),
    Mutant(
        "federation/budget.py", 'if self.terms.privacy.unit == "patient":', "if True:", "a patient who turns a site's vector round", (ATTACKS, "at_face_value")
    ),
    Mutant("privacy/ledger.py", " + (self.spare * costliest if self.spare else 0.0)", "", "repeated rounds for nothing", (LEDGER, "reserve_charge_settle")),
    Mutant("privacy/quote.py", "whole = accountant.with_spare(plan, spare)", "whole = plan", "a quote below the cost", (QUOTE, "numbers_are")),
    Mutant(
        "privacy/quote.py",
        'f"{ceil(epsilon * 10**digits - 1e-4)',
        'f"{int(epsilon * 10**digits)',
        "an epsilon below the promise",
        (QUOTE, "rounded or numbers or up"),
    ),
    Mutant("privacy/accountant.py", "dial * request.weight", "dial", "a step with the budget of another", (ACCOUNTANT, "weights_divide")),
    Mutant("tasks/private/base.py", "rounds, self.step.share)", "rounds)", "a step with the budget of another", (TRAINING, "what_is_asked_for")),
    Mutant(
        "privacy/accountant.py",
        "goal / exact**2 * (1 - 1e-6)",
        "goal / exact**2 * 1.1",
        "5 % too little noise",
        (ACCOUNTANT, "promise_is_kept and exact and 0-1.0"),
        core=True,
    ),
    Mutant(
        "privacy/accountant.py",
        "_excess(_epsilon(at(dial), delta, grid), epsilon)",
        "_excess(_epsilon(at(dial), delta, grid), 1.05 * epsilon)",
        "5 % too little noise",
        (ACCOUNTANT, "specifications_setting"),
    ),
    Mutant(
        "federation/budget.py",
        "return ceil(multiplier / unit) * unit",
        "return floor(multiplier / unit) * unit",
        "a hair too little noise",
        (BUDGET, "rounded_up"),
    ),
    Mutant(
        "privacy/accountant.py",
        "goal = mu_gaussian(epsilon, delta) ** 2",
        "goal = mu_gaussian(epsilon, 1e-3) ** 2",
        "delta ignored",
        (ACCOUNTANT, "promise_is_kept and exact and 0-1.0"),
    ),
    Mutant(
        "privacy/accountant.py",
        "if patients is not None and delta > largest_delta(patients) * (1 + 1e-9):",
        "if False:",
        "a delta that publishes somebody",
        (ACCOUNTANT, "tenth_of_one"),
    ),
    Mutant(
        "privacy/accountant.py",
        "None if plan.amplified or plan.skellam else",
        "None if plan.amplified else",
        "Skellam noise accounted as Gaussian",
        (ACCOUNTANT, "skellam_is_accounted"),
    ),
    Mutant(
        "privacy/accountant.py",
        "np.isfinite(found) & (found >= 0), found + _ROUNDING, inf)",
        "np.isfinite(found), found, inf)",
        "rounding taken for no cost",
        (ACCOUNTANT, "rounding_spoils"),
    ),
    Mutant(
        "tasks/private/sgd.py",
        "self.releases(self.step.rounds, self.sampler)",
        "self.releases(1, self.sampler)",
        "one round paid for",
        (TRAINING, "what_is_asked_for"),
    ),
    Mutant(
        "tasks/private/sgd.py",
        "self.releases(self.step.rounds, self.sampler)",
        "self.releases(self.step.rounds, FixedOrder(self.step.rounds))",
        "another sampler accounted",
        (TRAINING, "what_is_asked_for"),
    ),
    Mutant("tasks/private/glm.py", "return self.releases(self.rounds)", "return self.releases(1)", "one round paid for", (GLM, "what_is_requested")),
    Mutant("tasks/private/fedavg.py", "return self.releases(self.step.rounds)", "return self.releases(1)", "one round paid for", (TRAINING, "whole_sites_ask")),
    # --- the filter ---
    Mutant(
        "privacy/filters.py", '{"gdp": mu2,', '{"gdp": mu2**1.5,', "many cheap rounds for nothing", (FILTERS, "rounds_add or five_studies or admits"), core=True
    ),
    Mutant("privacy/filters.py", '"rdp": self._order * mu2 / 2}', '"rdp": mu2 / 2}', "the divergence of a lower order", (FILTERS, "rounds_add")),
    Mutant(
        "privacy/filters.py",
        "return accountant.mu_gaussian(epsilon, delta) ** 2",
        "return accountant.mu_gaussian(epsilon, 1e-3) ** 2",
        "delta ignored",
        (FILTERS, "limit_is_the_largest"),
    ),
    Mutant(
        "privacy/filters.py",
        "return log1p(-1 / order) - (log(delta) + log(order)) / (order - 1)",
        "return log1p(-1 / order)",
        "delta ignored",
        (FILTERS, "admits or limit_is"),
    ),
    Mutant("privacy/filters.py", 'if self.kind != "rdp" and release.sampler.amplified:', "if False:", "a sample has no mu", (FILTERS, "needs_a_renyi")),
    Mutant("privacy/filters.py", 'if self.kind == "gdp" and release.noise == "skellam":', "if False:", "Skellam noise has no mu", (FILTERS, "skellam_needs")),
    Mutant(
        "privacy/filters.py",
        "sampler.norm2 / release.multiplier**2",
        "1.0 / release.multiplier**2",
        "a patient is in every release of the band",
        (FILTERS, "rounds_add or fixed_order"),
    ),
    # --- the ledger: what may be spent ---
    Mutant("privacy/ledger.py", "                self._must_fit(terms)\n", "", "any number of studies", (LEDGER, "five_studies"), core=True),
    Mutant("privacy/ledger.py", "held + asked.cost <= self._limit", "asked.cost <= self._limit", "each study has the whole budget", (LEDGER, "five_studies")),
    Mutant(
        "privacy/ledger.py",
        "return self.charged if self.over else self.reserved",
        "return 0.0 if self.over else self.reserved",
        "settling gives back what is gone",
        (LEDGER, "reserve_charge_settle"),
    ),
    Mutant("privacy/ledger.py", " and self.spare_left <= 0:", " and False:", "any number of spare rounds", (LEDGER, "rounds_outside_the_plan")),
    Mutant(
        "privacy/ledger.py",
        "if self.charged + self.price(step, iteration) > self.reserved:",
        "if False:",
        "more than was reserved",
        (LEDGER, "never_cost_more_than"),
    ),
    Mutant(
        "privacy/ledger.py",
        "times = self.runs_of.get((step, iteration), 0) + 1\n        due",
        "times = 1\n        due",
        "repetitions for nothing",
        (LEDGER, "pays_by_epoch"),
    ),
    Mutant(
        "privacy/ledger.py",
        "known = account_of.charges.get((run, seq))",
        "known = next((c for (r, _), c in account_of.charges.items() if r == run), None)",
        "one round of a run paid for",
        (LEDGER, "reserve_charge_settle or rounds_outside"),
    ),
    Mutant(
        "privacy/ledger.py",
        "elif (known.step, known.iteration) != (step, iteration):",
        "elif False:",
        "one receipt for two rounds",
        (LEDGER, "rounds_outside_the_plan"),
    ),
    Mutant(
        "privacy/ledger.py",
        "elif known.terms.unpriced != terms.unpriced:",
        "elif False:",
        "less noise under an old reservation",
        (LEDGER, "study_reserves_once"),
    ),
    Mutant(
        "privacy/ledger.py",
        "        if account_of.settled:\n            raise",
        "        if False:\n            raise",
        "a study that goes on after it is over",
        (LEDGER, "rounds_outside_the_plan"),
    ),
    Mutant(
        "privacy/ledger.py",
        "return ceil(cost * _QUANTA) / _QUANTA if",
        "return floor(cost * _QUANTA) / _QUANTA if",
        "prices rounded down",
        (LEDGER, "what_the_filter_says or add_up or reserve_charge"),
    ),
    Mutant(
        "privacy/ledger.py",
        "return floor(min(limit, _TOO_MUCH) * _QUANTA)",
        "return ceil(min(limit, _TOO_MUCH) * _QUANTA)",
        "a limit rounded up",
        (LEDGER, "reserve_charge_settle"),
    ),
    # --- the ledger: what it remembers ---
    Mutant("privacy/ledger.py", '"synchronous = EXTRA"', '"synchronous = OFF"', "a charge that the next power cut forgets", (CRASH, "durable")),
    Mutant("privacy/anchor.py", "            os.fsync(f.fileno())\n", "", "a charge that the next power cut forgets", (CRASH, "durable")),
    Mutant("privacy/anchor.py", "        _sync_folder(self.path.parent)\n", "", "a charge that the next power cut forgets", (CRASH, "durable")),
    Mutant(
        "privacy/ledger.py",
        "        self._anchor.write(account.n + 1, line)\n        self._commit()\n",
        "        self._commit()\n        self._anchor.write(account.n + 1, line)\n",
        "an anchor that is behind after a crash",
        (CRASH, "killed_at_a_chosen_point"),
    ),
    Mutant("privacy/anchor.py", "if known.n > n + 1:", "if False:", "an older copy forgets what was spent", (LEDGER, "older_copy_of_the_database"), core=True),
    Mutant("privacy/anchor.py", "if known.n < n:", "if False:", "an older anchor hides the next rollback", (LEDGER, "older_copy_of_the_anchor")),
    Mutant("privacy/anchor.py", "if known.n == n and line != last:", "if False:", "a last line edited", (LEDGER, "last_line_edited")),
    Mutant(
        "privacy/anchor.py",
        "if head is None or line_hash(head.line.encode()) != head.hash:",
        "if head is None:",
        "an anchor edited",
        (LEDGER, "last_line_edited or any_byte"),
    ),
    Mutant(
        "privacy/ledger.py",
        "pending = self._anchor.pending(account.n, account.last)",
        "pending = None",
        "an older copy forgets what was spent",
        (LEDGER, "older_copy"),
    ),
    Mutant("privacy/ledger.py", " or line.previous != self.head or", " or", "lines edited", (LEDGER, "edited_line")),
    Mutant("privacy/ledger.py", "c.cost == study.price(c.step, c.iteration)", "True", "charges edited to nothing", (LEDGER, "cannot_follow")),
    Mutant(
        "privacy/ledger.py",
        "if account.n and next(rows, None) != (account.n, account.last):",
        "if account.n and next(rows, None) is None:",
        "lines edited while it is open",
        (LEDGER, "under_a_running_process"),
    ),
    Mutant("privacy/ledger.py", "if (terms.site, terms.dataset) != (site, dataset):", "if False:", "another data set's ledger", (LEDGER, "another_site")),
    Mutant(
        "privacy/ledger.py", "        if self.data_sha256 != data_sha256:\n", "        if False:\n", "other patients under this ledger", (LEDGER, "other_data")
    ),
    Mutant(
        "privacy/ledger.py", "            if data_sha256 is not None:\n", "            if False:\n", "other patients under this ledger", (LEDGER, "other_data")
    ),
    Mutant("privacy/ledger.py", "if n > account.n:", "if False:", "a rollback of both files unseen", (LEDGER, "are_for_the_witness")),
    Mutant(
        "privacy/ledger.py",
        "if n < 1 or [line_hash(raw) for number, raw in self._rows(n, n)] != [hash]:",
        "if n < 1:",
        "a ledger rewritten to the same length",
        (LEDGER, "for_the_witness"),
    ),
    Mutant(
        "privacy/ledger.py",
        'if anchor.exists():\n            raise LedgerError(f"There is a ledger',
        'if False:\n            raise LedgerError(f"There is a ledger',
        "a ledger begun anew",
        (LEDGER, "no_database or created_once or file_deleted"),
    ),
    # --- a site's ledgers and the witness ---
    Mutant(
        "site/ledgers.py",
        "            ledger.check_witness(head.n, head.hash)\n",
        "            pass\n",
        "a rollback of both files unseen",
        (SITE, "sites_own_statement"),
    ),
    Mutant("site/agent.py", "self._stated = await self.api.ledgers()", "self._stated = {}", "a rollback of both files unseen", (SITE, "sites_own_statement")),
    Mutant("site/agent.py", "        await self._state_ledger(request, log)\n", "", "nothing to compare a rollback with", (SITE, "sites_own_statement")),
    Mutant(
        "site/ledgers.py",
        ", dataset=data.name, data_sha256=sha256), now, sha256)",
        ", dataset=data.name), now, sha256)",
        "other patients under this ledger",
        (SITE, "another_table"),
    ),
    Mutant(
        "site/ledgers.py",
        "if kept is None or kept.stamp != now or now is None:",
        "if kept is None:",
        "other patients under an open ledger",
        (SITE, "was_changed_while"),
    ),
    Mutant(
        "site/ledgers.py",
        "if other.name != data.name and self.exists(other) and sha256 in self._hashes(other):",
        "if False:",
        "the same patients' budget twice",
        (SITE, "same_table"),
    ),
    Mutant(
        "site/ledgers.py",
        "isinstance(line.entry, Created | Rebased)}",
        "isinstance(line.entry, Created)}",
        "the same patients' budget twice, by their later table",
        (SITE, "newer_extract"),
    ),
    Mutant(
        "site/ledgers.py", "            ledger.rebase(sha256)\n", "            pass\n", "a table under a ledger that does not name it", (SITE, "another_table")
    ),
    Mutant(
        "federation/witness.py",
        '        Envelope.open(self.envelope, key, kind="ledger", sender=site, digest=sha256(self.body.encode()))\n',
        "",
        "anybody could state it",
        (APP, "has_not_signed"),
    ),
    Mutant(
        "federation/witness.py", ", digest=sha256(self.body.encode()))\n        try", ")\n        try", "a statement could be altered", (APP, "has_not_signed")
    ),
    Mutant(
        "site/ledgers.py", "for path in (data.source, data.mapping):", "for path in (data.source,):", "a visit for a patient", (ATTACKS, "mapping_that_makes")
    ),
    Mutant(
        "site/agent.py",
        "if answer.body is not None or private:",
        "if answer.body is not None:",
        "two draws of noise on one sum, one of them unpaid",
        (ATTACKS, "before_it_is_durable"),
    ),
    # --- the door ---
    Mutant(
        "federation/door.py",
        "if budget is None or charge is None or (charge.study, charge.run, charge.seq) != (a.study, a.run, a.seq):",
        "if budget is None:",
        "a round for nothing",
        (BUDGET, "unpaid"),
        core=True,
    ),
    Mutant("federation/door.py", " or (charge.study, charge.run, charge.seq) != (a.study, a.run, a.seq):", ":", "another round's receipt", (BUDGET, "unpaid")),
    Mutant(
        "federation/door.py",
        'bound is None or (bound.norm, bound.limit, bound.unit) != ("l2", 1.0, terms.privacy.unit) or',
        "",
        "a vector that was not clipped",
        (BUDGET, "unpaid"),
    ),
    Mutant(
        "federation/door.py",
        ' or contribution.weight != 1.0:\n            raise TaskError("The task gave no sum',
        ':\n            raise TaskError("The task gave no sum',
        "a vector weighted after its clip",
        (BUDGET, "unpaid"),
    ),
    Mutant(
        "federation/door.py",
        'if not terms.privacy.on and self.policy.exact == "never":',
        "if False:",
        "exact sums from a site that never gives them",
        (BUDGET, "never_releases_exact"),
    ),
    Mutant(
        "federation/door.py",
        "            if terms.privacy.on:\n                return",
        "            if terms.privacy.on and contribution.rows >= self.policy.min_rows:\n                return",
        "a site that declines says that it has nobody",
        (BUDGET, "without_patients"),
    ),
    Mutant(
        "federation/door.py",
        "budget.priced, study.terms.privacy.spare,",
        "budget.priced, 1000,",
        "spare rounds that nobody agreed to",
        (BUDGET, "every_release"),
    ),
    Mutant(
        "federation/visit.py",
        "        layout.check(contribution.vector)\n        return contribution\n",
        "        return contribution\n",
        "the door declines for one patient's sake",
        (BUDGET, "whatever_a_task"),
    ),
    Mutant(
        "federation/visit.py",
        "    except Exception as error:\n        reason",
        "    except LocumError as error:\n        reason",
        "an error tells of one patient",
        (BUDGET, "whatever_a_task"),
    ),
    Mutant(
        "federation/visit.py",
        "    _check_state(task, state, site_rng(assignment, door.site))\n",
        "",
        "a state that fails for one patient",
        (ATTACKS, "infinite_coefficient or broken_state"),
    ),
    Mutant(
        "federation/visit.py",
        'memory["iteration"] = np.asarray(assignment.iteration)',
        "pass",
        "a state that lies about the round",
        (ATTACKS, "lies_about_the_round"),
    ),
    Mutant(
        "federation/visit.py",
        "        return Contribution(layout.zeros(), rows.patients,",
        '        raise ReleaseDeclined("internal", reason) from error\n        return Contribution(layout.zeros(), rows.patients,',
        "declining tells of one patient",
        (BUDGET, "whatever_a_task"),
    ),
    Mutant(
        "site/agent.py",
        "        charge = self.door.charge(study, budget, a, ledger, requester=known.view.requester)\n"
        "        try:\n            rows = self.rows(study, known)\n"
        "        except LocumError as error:\n"
        '            raise ReleaseDeclined("data", error.what, why=error.why, fix=error.fix) from error\n',
        "        try:\n            rows = self.rows(study, known)\n"
        "        except LocumError as error:\n"
        '            raise ReleaseDeclined("data", error.what, why=error.why, fix=error.fix) from error\n'
        "        charge = self.door.charge(study, budget, a, ledger, requester=known.view.requester)\n",
        "rows read before they are paid for",
        (SITE, "before_a_row_is_read"),
    ),
    # --- the review ---
    Mutant(
        "site/review.py",
        'if seen.exact and not exact and load_config(folder).policy.exact != "allow":',
        "if False:",
        "exact sums that nobody decided on",
        (SITE, "exact_study"),
    ),
    Mutant(
        "site/review.py",
        '    if not study.terms.privacy.on and policy.exact == "never":\n        problems',
        "    if False:\n        problems",
        "approved, and never answered",
        (SITE, "exact_study"),
    ),
    Mutant(
        "site/review.py", "        problems += _delta_problem(study, report.patients)\n", "", "a delta that publishes somebody here", (SITE, "delta_is_judged")
    ),
    Mutant("site/review.py", "problems += [cost.problem] if cost and cost.problem else []", "pass", "approved beyond the budget", (SITE, "would_overspend")),
    Mutant("site/review.py", "            _set_aside(folder, store, known, chosen)\n", "", "approved, and nothing set aside", (SITE, "every_vector")),
    # --- tasks: what one patient moves ---
    Mutant(
        "tasks/private/histogram.py",
        "counts * factors(norms)[patient]",
        "counts",
        "each record in a cell of its own",
        (STATISTICS, "many_records_of_one_patient"),
        core=True,
    ),
    Mutant(
        "tasks/private/histogram.py",
        "np.bincount(patient, counts.astype(np.float64) ** 2)",
        "np.bincount(patient, counts.astype(np.float64))",
        "two records in a cell count as root two",
        (STATISTICS, "many_records_of_one_patient"),
    ),
    Mutant(
        "tasks/private/moments.py",
        "np.sqrt(3.0 * len(self.variables))",
        "np.sqrt(len(self.variables))",
        "a record longer than 1, which the clip cuts",
        (STATISTICS, "without_noise_the_answers"),
    ),
    Mutant(
        "tasks/private/evaluate.py",
        "counts = cell_sums(cells, rows.codes, 2 * bins + 1)",
        "counts = np.bincount(cells, minlength=2 * bins + 1).astype(np.float64)",
        "each record counted",
        (STATISTICS, "one_patient_in_an_evaluation"),
    ),
    Mutant(
        "tasks/private/quantiles.py",
        "rows.codes, bins + 1)",
        "np.arange(len(x)), bins + 1)",
        "each record counted",
        (STATISTICS, "many_records_of_one_patient"),
    ),
    Mutant("tasks/private/glm.py", "w = factors(bound, math.sqrt(1.0 - COUNT**2))", "w = factors(bound, 2.0)", "twice the norm", (GLM, "bound_is_used")),
    Mutant("tasks/private/glm.py", "np.sqrt((self.a * g) ** 2 + ", "np.sqrt(", "the gradient for nothing", (GLM, "bound_is_used")),
    Mutant("tasks/private/glm.py", "(self.b**2 + SQUARED**2) * h**2", "self.b**2 * h**2", "the trace for nothing", (GLM, "bound_is_used or at_most_one")),
    Mutant(
        "tasks/private/glm.py",
        "w, fixed = self.weigh(expit(np.abs(eta)), ",
        "w, fixed = self.weigh(expit(-np.abs(eta)), ",
        "the least that the outcome moves",
        (GLM, "bound_is_used"),
    ),
    Mutant(
        "tasks/private/glm.py",
        "y = np.clip((y - self.middle) / self.unit, -1.0, 1.0)",
        "y = (y - self.middle) / self.unit",
        "an outcome of any size",
        (GLM, "at_most_one"),
    ),
    Mutant(
        "tasks/private/sgd.py",
        "return row_squares(self.x)",
        "return row_squares(self.x[:, 1:])",
        "ghost norms without the bias",
        (TRAINING, "clipped_patient_counts or moves_the_sum"),
    ),
    Mutant(
        "tasks/private/ghost.py",
        "for rows in repeated(codes) if several is None else several:",
        "for rows in ():",
        "records added after their norms",
        (TRAINING, "clipped_patient_counts"),
    ),
    Mutant("tasks/private/ghost.py", " + (i + o + m * m) * _ROUNDING * most)", ")", "norms that err downwards", (TRAINING, "never_err_downwards")),
    Mutant("tasks/private/ghost.py", "    if not sound.all():", "    if False:", "NaN for one patient's sake", (TRAINING, "patient_moves")),
    Mutant(
        "tasks/private/sgd.py",
        " if now > last else np.empty((0, len(gradient)))",
        "",
        "a patient back within the band",
        (ATTACKS, "repeated_costs_no_more or backwards"),
    ),
    Mutant(
        "tasks/private/fedavg.py",
        "BIT = 2.0 * math.sqrt(1.0 - UPDATE**2)",
        "BIT = 1.0",
        "the bit for nothing",
        (TRAINING, "uses_the_whole_bound or site_moves"),
    ),
    Mutant("tasks/private/fedavg.py", "update / clip * (UPDATE * float(", "update / clip * (float(", "the bit for nothing", (TRAINING, "uses_the_whole_bound")),
    Mutant(
        "tasks/private/fedavg.py",
        "        if not np.isfinite(update).all():\n",
        "        if False:\n",
        "NaN for one site's sake",
        (TRAINING, "training_diverges"),
    ),
    Mutant(
        "tasks/private/base.py",
        "if privacy.unit not in cls.units:",
        "if False:",
        "patients protected where sites were promised",
        (STATISTICS, "protects_sites"),
    ),
    # --- what is shown ---
    Mutant(
        "privacy/disclosure.py",
        "while total_known and hidden.any() and not _vague",
        "while False and not _vague",
        "a hidden cell follows from the total",
        (DISCLOSURE, "examples"),
        core=True,
    ),
    Mutant("privacy/disclosure.py", "return (c < threshold) &", "return (c < threshold - 1) &", "a cell of one fewer is shown", (DISCLOSURE, "examples")),
    Mutant(
        "privacy/disclosure.py", "len(hidden) * least >= threshold", "len(hidden) * least >= threshold - 1", "an interval of one less", (DISCLOSURE, "examples")
    ),
    Mutant("privacy/disclosure.py", "len(hidden) > 1 and ", "", "a hidden cell is the total's rest", (DISCLOSURE, "hidden_in_any_case")),
    Mutant("privacy/disclosure.py", "if high - low < threshold - 1e-6:", "if False:", "a hidden cell follows from the margins", (DISCLOSURE, "a_table")),
    Mutant(
        "privacy/disclosure.py",
        "if same or (nested(a, b) and not suppressed):",
        "if same or nested(a, b):",
        "a coarser table gives a cell away",
        (DISCLOSURE, "could_be_subtracted"),
    ),
    Mutant(
        "tasks/private/histogram.py",
        "bins = suppress(counts[:-3], self.params.threshold, zeros=False)",
        "bins = counts[:-3]",
        "small noisy cells are shown",
        (STATISTICS, "small_noisy_cells"),
    ),
]
