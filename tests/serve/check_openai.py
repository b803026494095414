"""The `openai` package against `colar-engine serve`: chat, completions, responses, streams, and its classes of errors.

    pip install openai
    python tests/serve/check_openai.py --model models/SmolLM2-135M
    python tests/serve/check_openai.py --model models/SmolLM2-135M --adapter runs/colar/best

It starts the server itself, on a free port, with a key and a queue of one, and stops it at the end.
"""

import argparse
import pathlib
import signal
import subprocess
import tempfile
import time

import openai

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
QUESTION = [{"role": "user", "content": "Tom has 3 boxes of 24 pens. How many pens has he?"}]
KEY = "key-of-the-check"


def serve(arguments, keys):
    """The server and its address, once it takes requests."""
    command = [arguments.engine, "serve", "--model", arguments.model, "--alias", "checked", "--port", "0",
               "--api-key-file", keys, "--max-concurrency", "1", "--max-queued-requests", "1"]
    if arguments.adapter:
        command += ["--adapter", arguments.adapter]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = server.stderr.readline().split()
    assert line[:2] == ["listening", "on"], line
    return server, line[2]


def until_ready(client):
    for _ in range(600):
        try:
            return client.models.list().data
        except (openai.InternalServerError, openai.APIConnectionError):
            time.sleep(0.1)
    raise SystemExit("the server does not get ready")


def fails(kind, call, param=None):
    """Checks that a call fails by a class of the package."""
    try:
        call()
    except kind as error:
        assert error.param == param, (error.param, param)
        print(f"  {kind.__name__}: {error.body['message']}")
        return
    raise SystemExit(f"no {kind.__name__}")


def check_chat(client):
    at_root = client.with_options(base_url=str(client.base_url).removesuffix("v1/"))
    method = at_root.get("/props", cast_to=object)["method"]
    few = {"max_tokens": 8, "temperature": 0, "seed": 1}
    limit = {"max_latents": 8} if method == "colar" else {"max_cot_tokens": 8}
    whole = client.chat.completions.create(model="checked", messages=QUESTION, extra_body=limit, **few)
    message, usage = whole.choices[0].message, whole.usage
    reasoning = usage.completion_tokens_details.reasoning_tokens
    assert 0 < reasoning <= 8 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    assert whole.timings["predicted_n"] == usage.completion_tokens

    text, thought, last = "", "", None
    for chunk in client.chat.completions.create(model="checked", messages=QUESTION, extra_body=limit, stream=True,
                                                stream_options={"include_usage": True}, **few):
        if chunk.choices:
            delta = chunk.choices[0].delta
            text += delta.content or ""
            thought += getattr(delta, "reasoning_content", None) or ""
        last = chunk
    assert text == message.content, (text, message.content)
    assert thought == (getattr(message, "reasoning_content", None) or "")
    assert last.usage.completion_tokens == usage.completion_tokens
    print(f"  chat, by {method}: {reasoning} latents or words, then {text!r}")


def check_completions(client):
    few = {"max_tokens": 8, "temperature": 0}
    whole = client.completions.create(model="checked", prompt="The capital of France is", **few)
    stream = client.completions.create(model="checked", prompt="The capital of France is", stream=True, **few)
    text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    assert text == whole.choices[0].text and whole.usage.completion_tokens <= 8
    print(f"  completion: {text!r}")


def check_responses(client):
    few = {"max_output_tokens": 8, "temperature": 0}
    whole = client.responses.create(model="checked", input=QUESTION[0]["content"], extra_body={"seed": 1}, **few)
    events = client.responses.create(model="checked", input=QUESTION, stream=True, extra_body={"seed": 1}, **few)
    deltas, last = "", None
    for event in events:
        deltas += event.delta if event.type == "response.output_text.delta" else ""
        last = event
    assert deltas == whole.output_text == last.response.output_text, (deltas, whole.output_text)
    assert whole.usage.output_tokens_details.reasoning_tokens > 0
    print(f"  response: {whole.status}, {deltas!r}")


def check_errors(client):
    chat = client.chat.completions.create
    fails(openai.BadRequestError, lambda: chat(model="checked", messages=QUESTION, tools=[{"type": "function"}]), "tools")
    fails(openai.BadRequestError, lambda: chat(model="checked", messages=QUESTION, temperature=-1), "temperature")
    fails(openai.BadRequestError, lambda: chat(model="checked", messages=QUESTION * 2), "messages")
    fails(openai.NotFoundError, lambda: chat(model="gpt-4", messages=QUESTION), "model")
    stranger = client.with_options(api_key="another")
    fails(openai.AuthenticationError, lambda: stranger.chat.completions.create(model="checked", messages=QUESTION))
    # One runs, one waits, and the third is refused.
    long = {"model": "checked", "prompt": "Once upon a time", "max_tokens": 1000, "stream": True}
    one = client.completions.create(**long)
    next(iter(one))
    two = client.completions.create(**long)
    fails(openai.RateLimitError, lambda: client.completions.create(model="checked", prompt="And then"))
    for stream in (one, two):
        stream.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--adapter", help="checkpoint over it")
    parser.add_argument("--engine", default=str(ROOT / "target/release/colar-engine"), help="the program")
    arguments = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        keys.write(KEY + "\n")
        keys.flush()
        server, address = serve(arguments, keys.name)
        try:
            client = openai.OpenAI(base_url=address + "/v1", api_key=KEY, max_retries=0)
            print(f"openai {openai.__version__}, models: {[model.id for model in until_ready(client)]}")
            for check in (check_chat, check_completions, check_responses, check_errors):
                check(client)
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0, server.returncode
            print("good")
        finally:
            server.kill()


if __name__ == "__main__":
    main()
