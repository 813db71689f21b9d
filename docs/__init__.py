"""The documentation; a package so that `python -m docs.generate_errors` finds this one."""
