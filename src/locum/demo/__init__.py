"""`locum demo`: a real federation of processes on this machine, beside what pooling the rows would have given."""
