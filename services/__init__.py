"""sparkstack: LLM services on one machine behind one gateway. `ls services` is the architecture."""

__version__ = "0.1.0"
