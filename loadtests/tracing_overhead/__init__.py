"""What traces and records of requests cost the gateway, also while whoever takes them is dead, full or slow."""
