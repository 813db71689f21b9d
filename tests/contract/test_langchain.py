"""LangChain's published standard tests of a chat model, with its `ChatOpenAI` against the gateway.

`standard_tests.py` lists what is left out.
"""

from types import SimpleNamespace

import langchain_tests.integration_tests.chat_models as standard
import openai
import pytest
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests.contract.standard_tests import LEFT_OUT, SUITE


class _NoInternet:
    """Stands in for httpx, by which the tests fetch the files that they show to the model."""

    @staticmethod
    def get(_url, **_):
        return SimpleNamespace(content=b"the bytes of a file")


@pytest.mark.slow
@pytest.mark.filterwarnings(
    # Of langchain-openai itself, whatever server it speaks to.
    "ignore:Pydantic serializer warnings:UserWarning",
    "ignore:Received a Pydantic BaseModel V1 schema:UserWarning",
    "ignore:OpenAI may require a filename for file uploads:UserWarning",
)
class TestChatOpenAIAgainstTheGateway(ChatModelIntegrationTests):
    chat_model_class = ChatOpenAI
    has_tool_choice = True
    supports_json_mode = True
    supports_image_inputs = True
    supports_image_urls = True
    supports_image_tool_message = True
    supports_pdf_inputs = True
    supports_pdf_tool_message = True
    supports_audio_inputs = True
    supports_anthropic_inputs = True
    supports_model_override = True
    model_override_value = "fake-other"

    @pytest.fixture(autouse=True)
    async def connections(self, stack, monkeypatch):
        """Give each test HTTP clients of its own: those that `ChatOpenAI` shares keep to the first event loop."""
        monkeypatch.setattr(standard, "httpx", _NoInternet)
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "nothing is fetched")
        with openai.DefaultHttpxClient() as blocking:
            async with openai.DefaultAsyncHttpxClient() as asynchronous:
                self._params = {
                    "model": "fake-chat",
                    "base_url": f"{stack.url}/v1",
                    "api_key": stack.key,
                    "max_retries": 0,
                    "stream_usage": True,
                    "http_client": blocking,
                    "http_async_client": asynchronous,
                }
                yield

    @property
    def chat_model_params(self):
        return self._params


def test_what_is_left_out_exists():
    assert TestChatOpenAIAgainstTheGateway.__name__ == SUITE
    assert [name for name in LEFT_OUT if not hasattr(ChatModelIntegrationTests, name)] == []
