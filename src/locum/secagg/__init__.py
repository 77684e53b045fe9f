"""Secure aggregation FSA-1: the coordinator learns the sum over a cohort, and nothing else.

Threat model, peer topology (hospitals mask against each other):

- The coordinator may be malicious and collude with c < n/3 of the sites, where n is the round's cohort, colluders included: the
  coordinator may ask as few as the minimum cohort. Above 128 sites, and with buckets, it may collude with the share
  of the sites that the study's terms name. Whoever records the wire, or takes the coordinator's database and logs, knows no
  more than the coordinator does.
- The roster, that is who the sites are and their identity keys, is signed by the consortium's key. It is never
  believed because the coordinator says so.
- Inconsistent views (two rosters, two models, two lists of survivors) end in an abort or in noise.
- Not protected against the coordinator: liveness, and the correctness of the output.

Threat model, helper topology (devices mask against three independent helpers): privacy holds if the coordinator colludes
with at most one of the three.

Never protected: the sum itself. The sum over a small cohort, or of a consistent but malicious model, still leaks. Hence a
minimum cohort (5 without differential privacy; 3 only by explicit policy), and differential privacy on top.

One file, one idea: `kdf` (labelled hashes and keys), `suites` (which algorithms), `messages` (deterministic CBOR), `ring`
and `encoding` (numbers to integers and back), `rotation`, `masks` (the mask core), `shamir`, `graph` and `parameters`
(who masks with whom, and how many must answer), `topology` (one round's cohort), `session` (pairwise secrets), `site` and `cohort` (the two ends of a
peer round), `helper` (the other topology). All are pure: randomness and signatures are passed in, nothing is stored.

Sources: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017; Bell et al.,
"Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020.
"""
