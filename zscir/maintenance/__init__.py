"""Keep a store healthy: gc, verify, doctor."""
