"""The round as a state machine, its messages and envelopes, the door, and the plan runner: no sockets, no clock."""
