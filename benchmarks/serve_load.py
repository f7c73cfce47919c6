"""`saccade serve` under load: is all answered, and rightly, and does its memory stay flat?

Starts the server as a process of its own and asks it for the detections of real images, many
clients at a time. A client that is told to come again (429) waits as long as it is told. Every
answer is compared with `Detector.predict`. Then come malformed bodies, which must be refused, and
an end while requests are under way. Linux, where a process's memory can be read.

    python benchmarks/serve_load.py
"""

import argparse
import asyncio
import io
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

import saccade

EXAMPLE = Path(__file__).parent.parent / "examples" / "blood-cells"
THRESHOLD = 0.3
SCORE_TOLERANCE, BOX_TOLERANCE = 5e-4, 0.25
"""Answers are rounded to four digits and to hundredths of a pixel; batches round differently."""


@dataclass
class Load:
    """What happened."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """Of each request that was answered with 200, the last try alone."""
    wrong: int = 0
    lost: int = 0
    """Connections that broke."""
    memory: list[int] = field(default_factory=list)
    """Of the server, in bytes, at every hundredth answer."""


def pictures(count: int) -> list[bytes]:
    """Real images, some turned, so that batches of several sizes come about."""
    files = sorted((EXAMPLE / "images").glob("*.jpg"))[:count]
    made = []
    for number, file in enumerate(files):
        image = Image.open(file)
        if number % 4 == 3:
            image = image.transpose(Image.Transpose.ROTATE_90)
        buffer = io.BytesIO()
        image.save(buffer, "PNG" if number % 8 == 5 else "JPEG", quality=92)
        made.append(buffer.getvalue())
    return made


def expected_rows(
    detector: saccade.Detector, picture: bytes
) -> list[tuple[str, float, list[float]]]:
    """Class, score and box of what the detector finds, some below the threshold included."""
    found = detector.predict(Image.open(io.BytesIO(picture)), THRESHOLD - 2 * SCORE_TOLERANCE)
    assert found.confidence is not None
    return list(
        zip(
            found.data["class_name"].tolist(),
            found.confidence.tolist(),
            found.xyxy.tolist(),
            strict=True,
        )
    )


def is_right(answer: dict[str, Any], expected: list[tuple[str, float, list[float]]]) -> bool:
    """Whether both have the same objects; those at the threshold may be missing."""
    left = list(expected)
    for each in answer["detections"]:
        same = [
            row
            for row in left
            if row[0] == each["class"]
            and abs(row[1] - each["score"]) < SCORE_TOLERANCE
            and all(abs(a - b) < BOX_TOLERANCE for a, b in zip(row[2], each["box"], strict=True))
        ]
        if not same:
            return False
        left.remove(same[0])
    return all(row[1] < THRESHOLD + SCORE_TOLERANCE for row in left)


def memory_of(process: subprocess.Popen[str]) -> int:
    """Resident bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"process {process.pid} tells no VmRSS: has it ended?")


def start(arguments: argparse.Namespace) -> tuple[subprocess.Popen[str], str]:
    """The server and its address."""
    options = ["--port", "0", "--queue", str(arguments.queue), "--timeout", "120"]
    if arguments.threads:
        options += ["--threads", str(arguments.threads)]
    command = [sys.executable, "-m", "saccade", "serve", str(EXAMPLE / "nano"), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if "http://" not in line:
        raise SystemExit("the server did not start.")
    return process, line.split()[-1]


async def client(
    url: str, turns: "asyncio.Queue[int]", work: list[tuple[bytes, Any]], load: Load, process: Any
) -> None:
    """Ask until no turns are left."""
    async with httpx.AsyncClient(base_url=url, timeout=180) as http:
        while not turns.empty():
            picture, expected = work[turns.get_nowait() % len(work)]
            while True:
                begin = time.perf_counter()
                try:
                    answer = await http.post("/predict", files={"image": ("image", picture)})
                except httpx.TransportError:
                    load.lost += 1
                    break
                load.statuses[answer.status_code] += 1
                if answer.status_code != 429:
                    break
                await asyncio.sleep(float(answer.headers["Retry-After"]))
            else:
                continue
            if answer.status_code == 200:
                load.seconds.append(time.perf_counter() - begin)
                load.wrong += not is_right(answer.json(), expected)
                if len(load.seconds) % 100 == 0:
                    load.memory.append(memory_of(process))


async def ask(
    arguments: argparse.Namespace, url: str, work: Any, process: Any
) -> tuple[Load, float]:
    """All requests; what happened, and in how many seconds."""
    load = Load()
    turns: asyncio.Queue[int] = asyncio.Queue()
    for turn in range(arguments.requests):
        turns.put_nowait(turn)
    begin = time.perf_counter()
    clients = (client(url, turns, work, load, process) for _ in range(arguments.clients))
    await asyncio.gather(*clients)
    return load, time.perf_counter() - begin


def malformed(chance: random.Random, picture: bytes) -> dict[str, Any]:
    """A request whose body is broken in one of many ways."""
    boundary = "boundary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"\r\n\r\n'.encode()
    whole = head + picture + f"\r\n--{boundary}--\r\n".encode()
    form = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    text = {"Content-Type": "application/json"}
    cut = chance.randrange(len(picture) // 2)
    noise = chance.randbytes(chance.randrange(1, 3000))
    return chance.choice(
        [
            {"content": whole[: len(head) + cut], "headers": form},
            {"content": noise, "headers": form},
            {"content": whole.replace(b"image", b"imago"), "headers": form},
            {"files": {"image": picture[: max(1, cut // 8)]}},
            {"files": {"image": noise}},
            {"files": {"image": b""}},
            {"content": noise, "headers": text},
            {"content": b"[" * chance.randrange(1, 100_000), "headers": text},
            {"content": b'{"image": "' + noise.hex().encode() + b'x"}', "headers": text},
            {"content": b'{"image": [1, {"a": null}]}', "headers": text},
            {"content": noise, "headers": {"Content-Type": noise[:20].hex()}},
            {"content": noise},
        ]
    )


async def ask_badly(url: str, count: int, picture: bytes) -> Counter[int]:
    """The statuses of malformed requests."""
    chance = random.Random(0)
    statuses: Counter[int] = Counter()
    async with httpx.AsyncClient(base_url=url, timeout=180) as http:
        for _ in range(count):
            answer = await http.post("/predict", **malformed(chance, picture))
            statuses[answer.status_code] += 1
    return statuses


async def end_under_load(url: str, process: Any, picture: bytes) -> Counter[str]:
    """What becomes of requests that are under way when the server is asked to end."""
    async with httpx.AsyncClient(base_url=url, timeout=180) as http:
        asked = [
            asyncio.ensure_future(http.post("/predict", files={"image": ("image", picture)}))
            for _ in range(16)
        ]
        while 'saccade_queue_images{model="nano"} 0.0' in (await http.get("/metrics")).text:
            await asyncio.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*asked, return_exceptions=True)
    return Counter(
        type(each).__name__ if isinstance(each, BaseException) else str(each.status_code)
        for each in answers
    )


def report(load: Load, seconds: float) -> list[str]:
    """Print the figures; what is not as it should be."""
    answered = len(load.seconds)
    cuts = statistics.quantiles(load.seconds, n=100)
    print(f"{answered} answered in {seconds:.1f} s: {answered / seconds:.1f} requests/s")
    print(f"statuses: {dict(load.statuses)}, lost {load.lost}, wrong {load.wrong}")
    print(
        f"seconds of an answer: median {cuts[49]:.3f}, 90 % {cuts[89]:.3f}, 99 % {cuts[98]:.3f}, "
        f"longest {max(load.seconds):.3f}"
    )
    faults = []
    if load.lost or load.wrong or set(load.statuses) - {200, 429}:
        faults.append("requests were lost, wrong or failed")
    fifth = len(load.memory) // 5
    if fifth:
        early = statistics.median(load.memory[fifth : 2 * fifth])
        late = statistics.median(load.memory[-fifth:])
        growth = late / early - 1
        print(f"memory: {early / 1e6:.0f} MB in the second fifth, {late / 1e6:.0f} MB in the last")
        if growth > 0.03:
            faults.append(f"memory grew by {growth:.1%}")
    return faults


def main() -> int:
    """Run all three parts; 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=5000, help="well-formed (default 5000)")
    parser.add_argument("--clients", type=int, default=64, help="at a time (default 64)")
    parser.add_argument("--queue", type=int, default=48, help="the server's (default 48)")
    parser.add_argument("--malformed", type=int, default=1000, help="bodies (default 1000)")
    parser.add_argument("--images", type=int, default=64, help="different ones (default 64)")
    parser.add_argument("--threads", type=int, default=0, help="the server's (default torch's)")
    arguments = parser.parse_args()

    detector = saccade.Detector.from_pretrained(EXAMPLE / "nano")
    work = [(picture, expected_rows(detector, picture)) for picture in pictures(arguments.images)]
    process, url = start(arguments)
    try:
        load, seconds = asyncio.run(ask(arguments, url, work, process))
        faults = report(load, seconds)
        statuses = asyncio.run(ask_badly(url, arguments.malformed, work[0][0]))
        print(f"malformed bodies: {dict(statuses)}")
        if any(not 400 <= status < 500 for status in statuses):
            faults.append("a malformed body was not refused with a 4xx")
        ended = asyncio.run(end_under_load(url, process, work[0][0]))
        status = process.wait(180)
        print(f"under way when asked to end: {dict(ended)}; exit status {status}")
        if status or set(ended) != {"200"}:
            faults.append("the end was not graceful")
    finally:
        process.kill()
        process.wait()
    for fault in faults:
        print(f"FAILED: {fault}.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
