"""The stack's images and the stack in containers, on a real Docker engine: `make test-containers`."""
