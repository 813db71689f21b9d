"""Models' files: where they are, how they are got, checked and deleted."""
