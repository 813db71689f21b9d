"""What the stack costs and carries under load; each load test is a package of its own."""
