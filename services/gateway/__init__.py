"""The front door: OpenAI's and Ollama's APIs over whatever engine serves the model."""
