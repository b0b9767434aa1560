"""The official clients against the real server: clients.py <imp-server> <model>.

Each check states what the client's own code relies on; a failure names it and ends with status 1.
"""

import http.client
import json
import re
import subprocess
import sys
import threading
import unittest

import anthropic
import openai

SERVER, MODEL = sys.argv[1:3]
KEY = "secret"


def start():
    """Starts the server on a free port; gives the process and the address."""
    command = [SERVER, "--model", MODEL, "--port", "0", "--gpu-layers", "0", "--api-key", KEY]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    address = None
    for line in process.stderr:
        found = re.search(r"listening on (http://\S+)", line)
        address = found.group(1) if found else address
        if line.endswith("ready\n"):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, address
    raise SystemExit("the server did not start")


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.process, cls.url = start()
        cls.openai = openai.OpenAI(base_url=cls.url + "/v1", api_key=KEY, max_retries=0)
        cls.anthropic = anthropic.Anthropic(base_url=cls.url, api_key=KEY, max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.process.terminate()
        assert cls.process.wait(60) == 0, "SIGTERM ends the server with status 0"

    def chat(self, **more):
        return self.openai.chat.completions.create(
            model="imp", messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=24, temperature=0, **more)

    def test_chat(self):
        answer = self.chat(logprobs=True, top_logprobs=2)
        self.assertIn("Paris", answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertIn(answer.choices[0].finish_reason, ("stop", "length"))
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        tokens = answer.choices[0].logprobs.content
        self.assertEqual(b"".join(bytes(t.bytes) for t in tokens).decode(), answer.choices[0].message.content)
        self.assertTrue(all(len(t.top_logprobs) == 2 for t in tokens))

    def test_chat_stream_is_the_collected_answer(self):
        whole = self.chat().choices[0].message.content
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole)
        self.assertEqual(len({c.id for c in chunks}), 1)
        self.assertEqual(chunks[-1].choices, [])
        self.assertGreater(chunks[-1].usage.completion_tokens, 0)

    def test_chat_stream_helper(self):
        with self.openai.chat.completions.stream(
                model="imp", messages=[{"role": "user", "content": "What is the capital of France?"}],
                temperature=0) as stream:
            text = "".join(e.delta for e in stream if e.type == "content.delta")
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.content, text)

    def test_chat_choices(self):
        answer = self.openai.chat.completions.create(
            model="imp", messages=[{"role": "user", "content": "Tell a story"}], n=3, max_tokens=8,
            temperature=1.5, seed=5)
        self.assertEqual([c.index for c in answer.choices], [0, 1, 2])

    def test_stop_never_shows(self):
        answer = self.chat(stop=["Paris"])
        self.assertNotIn("Paris", answer.choices[0].message.content)
        chunks = self.chat(stop=["Paris"], stream=True)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, answer.choices[0].message.content)

    def test_schema(self):
        schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
                  "required": ["city"], "additionalProperties": False}
        asked = [{"role": "user", "content": "What is the capital of France? Answer in JSON."}]
        answer = self.openai.chat.completions.create(
            model="imp", messages=asked, max_tokens=64, temperature=0,
            response_format={"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}})
        self.assertEqual(list(json.loads(answer.choices[0].message.content)), ["city"])
        with self.assertRaises(openai.BadRequestError):
            self.chat(response_format={"type": "json_schema", "json_schema": {
                "name": "a", "schema": {"$ref": "#/nowhere"}}})

    def test_completions(self):
        answer = self.openai.completions.create(
            model="imp", prompt="The capital of France is", max_tokens=1, temperature=0, echo=True, logprobs=1)
        self.assertTrue(answer.choices[0].text.startswith("The capital of France is"))
        logprobs = answer.choices[0].logprobs
        self.assertIsNone(logprobs.token_logprobs[0])
        self.assertEqual(len(logprobs.tokens), len(logprobs.top_logprobs))
        text = "".join(c.choices[0].text for c in self.openai.completions.create(
            model="imp", prompt="The capital of France is", max_tokens=6, temperature=0, stream=True))
        self.assertIn("Paris", text)

    def test_models(self):
        model = self.openai.models.list().data[0]
        self.assertEqual(self.openai.models.retrieve(model.id).id, model.id)
        with self.assertRaises(openai.NotFoundError):
            self.openai.models.retrieve("some/other")

    def test_openai_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(n=1000)
        self.assertEqual(caught.exception.param, "n")
        with self.assertRaises(openai.AuthenticationError):
            openai.OpenAI(base_url=self.url + "/v1", api_key="wrong", max_retries=0).models.list()

    def test_embeddings(self):
        texts = ["What is the capital of France?", "The capital of France", "A recipe with onions"]
        # without a format the client asks for base64, and decodes it
        coded = self.openai.embeddings.create(model="imp", input=texts)
        plain = self.openai.embeddings.create(model="imp", input=texts, encoding_format="float")
        vectors = [item.embedding for item in plain.data]
        self.assertEqual([item.index for item in coded.data], [0, 1, 2])
        for item, vector in zip(coded.data, vectors):
            self.assertEqual(len(item.embedding), len(vector))
            self.assertTrue(all(abs(a - b) < 1e-7 for a, b in zip(item.embedding, vector)))
            self.assertAlmostEqual(sum(v * v for v in vector), 1, places=5)
        self.assertGreater(coded.usage.prompt_tokens, 10)
        self.assertEqual(coded.usage.total_tokens, coded.usage.prompt_tokens)
        alone = self.openai.embeddings.create(model="imp", input=texts[1], dimensions=len(vectors[1]))
        self.assertTrue(all(abs(a - b) < 1e-6 for a, b in zip(alone.data[0].embedding, vectors[1])))
        with self.assertRaises(openai.BadRequestError) as caught:
            self.openai.embeddings.create(model="imp", input=texts, dimensions=7)
        self.assertEqual(caught.exception.param, "dimensions")

    def test_responses(self):
        whole = self.openai.responses.create(
            model="imp", input="What is the capital of France?", instructions="Be brief.",
            max_output_tokens=24, temperature=0)
        self.assertIn("Paris", whole.output_text)
        with self.openai.responses.stream(
                model="imp", input="What is the capital of France?", instructions="Be brief.",
                temperature=0) as stream:
            text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
            final = stream.get_final_response()
        self.assertEqual(final.output_text, text)
        self.assertEqual(final.status, "completed")

    def messages(self, **more):
        return dict(model="imp", max_tokens=24, extra_body={"temperature": 0},
                    system=[{"type": "text", "text": "Be brief."}],
                    messages=[{"role": "user", "content": "What is the capital of France?"}], **more)

    def test_messages(self):
        whole = self.anthropic.messages.create(**self.messages())
        self.assertIn("Paris", whole.content[0].text)
        with self.anthropic.messages.stream(**self.messages()) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual(text, whole.content[0].text)
        self.assertEqual(final.stop_reason, whole.stop_reason)
        self.assertEqual(final.usage.output_tokens, whole.usage.output_tokens)
        counted = self.anthropic.messages.count_tokens(
            model="imp", system=self.messages()["system"], messages=self.messages()["messages"])
        self.assertEqual(counted.input_tokens, whole.usage.input_tokens + whole.usage.cache_read_input_tokens)

    def test_messages_stop_sequence(self):
        answer = self.anthropic.messages.create(**self.messages(stop_sequences=["Paris"]))
        self.assertEqual((answer.stop_reason, answer.stop_sequence), ("stop_sequence", "Paris"))

    def test_anthropic_errors(self):
        with self.assertRaises(anthropic.BadRequestError):
            self.anthropic.messages.create(model="imp", max_tokens=5, messages=[])
        with self.assertRaises(anthropic.AuthenticationError):
            client = anthropic.Anthropic(base_url=self.url, api_key="wrong", max_retries=0)
            client.messages.create(**self.messages())

    def test_metrics(self):
        self.chat()
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"))
        connection.request("GET", "/metrics", headers={"x-api-key": KEY})
        text = connection.getresponse().read().decode()
        self.assertRegex(text, r"imp_generated_tokens_total [1-9]")
        self.assertRegex(text, r"imp_time_to_first_token_seconds_count [1-9]")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
