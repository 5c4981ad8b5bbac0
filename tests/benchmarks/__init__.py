"""Lakescore, a plain script, its peers and the machine's limit on the same files and models, as whole processes."""
