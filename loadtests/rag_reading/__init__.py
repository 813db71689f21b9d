"""How many pages a second are read and cut, by format and by chunker."""
