"""Commands: what the command line's commands share, and those that have a module of their own."""
