"""What a gateway costs between clients and an engine: CPU, latency, memory; ours beside its peers."""
