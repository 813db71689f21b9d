"""Whether traffic or answers are different from what they were: windows of sampled requests against a reference."""
