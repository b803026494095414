#!/usr/bin/env python3
"""What HTTP adds to the engine, and what `colar-engine serve` does when too many come; Python alone is needed.

    colar-engine serve --model DIR [--adapter DIR] --max-concurrency 4 --max-queued-requests 8
    benches/serve_http.py overhead --requests 2000   # one client, one connection: its time less the engine's own
    benches/serve_http.py load --clients 40 --seconds 120   # 40 clients that ask again at once; refused ones wait a little
    benches/serve_http.py drops --connections 1000   # connections that are opened and dropped at random moments

Each ends with what the server's metrics show then: requests, rows of the cache, tasks, open files and memory, before and after.
"""

import argparse
import asyncio
import http.client
import json
import random
import statistics
import time
import urllib.parse

QUESTION = "Tom has 3 boxes of 24 pens and gives 10 away. How many are left?"
SHOWN = ["colar:num_requests_running", "colar:num_requests_waiting", "colar:kv_cache_usage", "colar:tasks",
         "process_open_fds", "process_resident_memory_bytes"]


def body(arguments, seed, **more):
    fields = {"messages": [{"role": "user", "content": QUESTION}], "seed": seed, "max_tokens": arguments.max_tokens, **more}
    if arguments.max_latents:
        fields["max_latents"] = arguments.max_latents
    return json.dumps(fields).encode()


def head(arguments, length):
    return (f"POST /v1/chat/completions HTTP/1.1\r\nhost: {arguments.at.netloc}\r\ncontent-type: application/json\r\n"
            f"content-length: {length}\r\n\r\n").encode()


def metrics(arguments):
    connection = http.client.HTTPConnection(arguments.at.hostname, arguments.at.port)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(values[name]) for name in SHOWN if name in values}


def quantiles(name, values, unit="ms"):
    values = sorted(values)
    at = lambda share: values[min(len(values) - 1, int(share * len(values)))]
    print(f"{name}: p50 {at(.5):.3f}, p95 {at(.95):.3f}, p99 {at(.99):.3f} {unit} of {len(values)}")


def overhead(arguments):
    connection = http.client.HTTPConnection(arguments.at.hostname, arguments.at.port)
    added, whole, bare = [], [], []
    for seed in range(arguments.requests):
        data = body(arguments, seed)
        begun = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", data, {"content-type": "application/json"})
        response = connection.getresponse().read()
        took = 1e3 * (time.perf_counter() - begun)
        timings = json.loads(response)["timings"]
        whole.append(took)
        added.append(took - timings["queued_ms"] - timings["prompt_ms"] - timings["predicted_ms"])
        begun = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        bare.append(1e3 * (time.perf_counter() - begun))
    quantiles("a request, as its client has it", whole)
    quantiles("of that outside the engine, the client's own time included", added)
    quantiles("a request that the engine has no part in (/health)", bare)


async def ask(arguments, seed):
    """One request on a connection of its own; its status and body."""
    reader, writer = await asyncio.open_connection(arguments.at.hostname, arguments.at.port)
    data = body(arguments, seed)
    writer.write(head(arguments, len(data)).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + data)
    answer = await reader.read()
    writer.close()
    top, _, rest = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(rest)


async def load(arguments):
    counts, times, refusals, memory = {}, [], [], []
    # A few questions are asked again and again, and each must have the answer that it has alone.
    alone = {seed: (await ask(arguments, seed))[1]["choices"] for seed in range(8)}
    over = time.monotonic() + arguments.seconds

    async def client(number):
        seeds = random.Random(number)
        while time.monotonic() < over:
            seed, begun = seeds.randrange(8), time.perf_counter()
            status, answer = await ask(arguments, seed)
            took = 1e3 * (time.perf_counter() - begun)
            counts[status] = counts.get(status, 0) + 1
            (times if status == 200 else refusals).append(took)
            assert status in (200, 429), answer
            assert status == 429 or answer["choices"] == alone[seed], (seed, answer)
            if status == 429:
                await asyncio.sleep(seeds.uniform(0, 0.2))

    async def watch():
        while time.monotonic() < over:
            memory.append((await asyncio.to_thread(metrics, arguments))["process_resident_memory_bytes"] / 2**20)
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *(client(number) for number in range(arguments.clients)))
    print(f"{arguments.clients} clients for {arguments.seconds:.0f} s: statuses {counts}, all answers as alone")
    quantiles("answers", times)
    if refusals:
        quantiles("refusals", refusals)
    tenth = max(1, len(memory) // 10)
    print(f"memory: {statistics.mean(memory[:tenth]):.1f} MiB in the first tenth, {statistics.mean(memory[-tenth:]):.1f} in the last, "
          f"{max(memory):.1f} at most")


async def drops(arguments):
    chance = random.Random(1)

    async def connection():
        await asyncio.sleep(chance.uniform(0, 5))
        reader, writer = await asyncio.open_connection(arguments.at.hostname, arguments.at.port)
        data = body(arguments, chance.randrange(1 << 30), stream=chance.random() < 0.7)
        request = head(arguments, len(data)) + data
        writer.write(request[:chance.randrange(len(request))] if chance.random() < 0.3 else request)
        try:
            await asyncio.wait_for(reader.read(chance.randrange(1, 4000)), chance.uniform(0, 0.5))
        except asyncio.TimeoutError:
            pass
        if chance.random() < 0.5:
            writer.transport.abort()
        writer.close()

    await asyncio.gather(*(connection() for _ in range(arguments.connections)))
    print(f"{arguments.connections} connections opened and dropped")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "load", "drops"])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--max-latents", type=int, default=0, help="0: the server's default")
    arguments = parser.parse_args()
    arguments.at = urllib.parse.urlparse(arguments.url)
    # Buffers that grow with the first requests are no leak.
    asyncio.run(ask(arguments, 0))
    before = metrics(arguments)
    if arguments.what == "overhead":
        overhead(arguments)
    else:
        asyncio.run({"load": load, "drops": drops}[arguments.what](arguments))
    for _ in range(200):
        after = metrics(arguments)
        if not after["colar:num_requests_running"] and not after["colar:num_requests_waiting"]:
            break
        time.sleep(0.1)
    time.sleep(1)
    after = metrics(arguments)
    for name in SHOWN:
        print(f"{name}: {before.get(name, 0):g} before, {after.get(name, 0):g} after")


if __name__ == "__main__":
    main()
