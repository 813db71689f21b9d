"""Pages for people: Open WebUI in front of the gateway."""
