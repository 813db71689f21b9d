"""A bundle: everything that a machine without a network needs to run the stack."""
