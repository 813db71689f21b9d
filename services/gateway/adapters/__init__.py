"""One file for each kind of server that the gateway stands in front of."""
