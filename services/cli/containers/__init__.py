"""The stack as containers: what compose runs, found, started, looked at and kept by the `docker` command."""
