"""Ollama's API as a facade over whatever engine serves the model: requests and answers are translated to and
from OpenAI's wire format; limits, routing, timeouts and accounting are those of every other request.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""
