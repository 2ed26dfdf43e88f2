"""One seed draws a whole world: a scenario that somebody could write, and what befalls its run."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import yaml

from kvsim.errors import InputError, UnsupportedError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.assemble import make_scheduler
from kvsim.simulator.loading import load_scenario
from kvsim.simulator.prepare import prepare
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.scenario import Scenario

Content = dict[str, Any]

STEP_SECONDS = 0.0137 * sqrt(2)  # of a constant clock: no arrival ties with the end of a step
_PROPOSALS = 40
_ROOMY = 1 << 16  # blocks

# engine and model: plain layers, windows, chunks, latents and states, in one pool and in several
_PLAIN = (("vllm", "llama3.1-8b"), ("sglang", "llama3.1-8b"), ("tensorrt-llm", "llama3.1-8b"))
_MIXED = (
    ("vllm", "gemma3-1b"),
    ("vllm", "nemotron-nano-9b-v2"),
    ("vllm", "deepseek-v2-lite"),
    ("vllm", "gpt-oss-20b"),
    ("sglang", "gemma3-1b"),
    ("sglang", "nemotron-nano-9b-v2"),
    ("tensorrt-llm", "gpt-oss-20b"),
)
_ALLOCATORS = (
    *("paged", "prefix") * 4,
    *("none", "reserve-max", "reserve-pow2", "reserve-oracle", "grow", "virtual"),
    "soak-thrifty",
)
_SCHEDULERS = (
    *("vllm-v1", "vllm-v0", "orca", "static", "sarathi", "sglang") * 2,
    "soak-gentle",
    "soak-polls",
)


@dataclass(frozen=True)
class World:
    """A scenario and its accidents.

    Parameters
    ----------
    seed : int
        What it was drawn from.
    content : dict
        The scenario, as a YAML file says it.
    trace : tuple of dict
        Lines of the trace that the scenario replays, if it does.
    cut_share, interrupt_share : float
        When the run is cut, as a share of its time; and when somebody presses Ctrl-C, as a
        share of the calls that it makes.
    frames : int
        Most frames that a camera keeps of it.
    onlookers : int
        Other processes in its SimPy environment.
    """

    seed: int
    content: Content
    trace: tuple[Mapping[str, Any], ...] = ()
    cut_share: float = 1.0
    interrupt_share: float = 1.0
    frames: int = 50
    onlookers: int = 0

    def written(self, folder: Path) -> Scenario:
        """Write the scenario and its trace as files, and read it as anybody would."""
        if self.trace:
            lines = "".join(json.dumps(line) + "\n" for line in self.trace)
            (folder / "trace.jsonl").write_text(lines, "utf-8")
        file = folder / "world.yaml"
        file.write_text(yaml.safe_dump(self.content), "utf-8")
        return load_scenario(file)


def draw_world(seed: int, folder: Path) -> World:
    """Draw the world of a seed.

    What kvsim refuses to simulate is drawn again; `folder` is where it is written to ask.

    Raises
    ------
    RuntimeError
        When kvsim refuses everything that is proposed.
    """
    dice = random.Random(seed)
    for _ in range(_PROPOSALS):
        world = _proposed(seed, dice)
        for pressure in (dice.choice((1.0, 1.0, 1.2, 1.7, 3.0, 30.0)), 4.0, 16.0):
            sized = _sized(world, pressure, folder)
            if sized is not None:
                return sized
    raise RuntimeError(f"kvsim refuses all worlds of seed {seed}")


def _proposed(seed: int, dice: random.Random) -> World:
    workload, trace = _workload(dice)
    content: Content = {
        "accelerator": dice.choice(("h100", "a100-80gb")),
        "workload": workload,
        "memory": _memory(dice),
        "scheduler": _scheduler(dice),
        "run": {"seed": dice.randrange(1000), "warmup_fraction": dice.choice((0.0, 0.0, 0.3))},
        "slo": dice.choice(({}, {"ttft_ms": 200.0, "tpot_ms": 20.0})),
    }
    if dice.random() < 0.3:
        content["step_time"] = {"kind": "constant", "seconds": STEP_SECONDS}
    plain = content["memory"]["allocator"] in ("prefix", "soak-thrifty") or dice.random() < 0.5
    content["engine"], content["model"] = _engine(dice, plain=plain)
    if content["memory"]["allocator"] == "prefix":
        content["engine"]["enable_prefix_caching"] = True
    return World(
        seed,
        content,
        trace,
        cut_share=dice.random(),
        interrupt_share=dice.random(),
        frames=dice.choice((2, 50)),
        onlookers=dice.randint(0, 2),
    )


def _engine(dice: random.Random, *, plain: bool) -> tuple[Content, str]:
    """Flags of an engine that is small in every respect, and the model that it serves."""
    name, model = dice.choice(_PLAIN if plain else _MIXED)
    seqs = dice.choice((1, 2, 3, 5, 8, 8, 20))
    engine: Content = {
        "name": name,
        "max_model_len": dice.choice((60, 90, 120, 200, 400)),
        "max_num_seqs": seqs,
        "max_num_batched_tokens": max(seqs, dice.choice((64, 20, 400, 2048))),
    }
    if name != "tensorrt-llm" and dice.random() < 0.8:
        engine["block_size"] = 16
    return engine, model


def _memory(dice: random.Random) -> Content:
    return {
        "allocator": dice.choice(_ALLOCATORS),
        "eviction": dice.choice(("lru", "fifo", "lfu", "soak-unrenewed")),
        "placement": dice.choice(("first-fit", "best-fit", "buddy", "soak-tightest")),
        "compaction": dice.random() < 0.5,
        "page_bytes": 65536,
    }


def _scheduler(dice: random.Random) -> Content:
    policy: Any = dice.choice(_SCHEDULERS)
    if policy == "soak-gentle":
        policy = {"name": policy, "prompts": dice.choice((1, 2))}
    if policy == "soak-polls":
        policy = {"name": "sglang", "scheduler_recv_interval": dice.choice((2, 7, 30))}
    orders = ("fcfs", "fcfs", "priority", "shortest-first", "soak-longest-first")
    return {
        "policy": policy,
        "admission": dice.choice(orders),
        "preemption": dice.choice(("recompute", "swap")),
        "long_prefill_token_threshold": dice.choice((0, 0, 7, 30)),
    }


# ---- workloads --------------------------------------------------------------------------


def _workload(dice: random.Random) -> tuple[Content, tuple[Content, ...]]:
    """Who asks what, and the lines of a trace if it is one."""
    kind = dice.choice(("open", "open", "closed", "trace"))
    requests = dice.choice((1, 5, 20, 40, 80))
    if kind == "trace":
        source = {"file": "trace.jsonl", "format": "mooncake", "hash_block_size": 16}
        source["time_scale"] = dice.choice((1.0, 0.1, 7.3))
        return {"trace": source}, _trace(dice, requests)
    workload: Content = {"lengths": _lengths(dice), "requests": requests}
    workload["samples"] = dice.choice((1, 1, 1, 2, 3))
    prefixes: list[Content] = [{"kind": "none"}, _groups(dice)]
    if kind == "closed":
        workload["arrivals"] = {
            "kind": "closed_loop",
            "clients": dice.randint(1, 10),
            "think": dice.choice((_fixed("seconds", 0.0), {"kind": "exponential", "mean": 0.3})),
            "ramp_seconds": dice.choice((0.0, 1.7)),
        }
    else:
        workload["arrivals"] = _arrivals(dice)
        if dice.random() < 0.4:
            workload["priorities"] = {0: 1.0, 1: 2.0, 5: 1.0}
    if workload["arrivals"]["kind"] != "at_once":
        prefixes.append(_conversations(dice))
    workload["prefix"] = dice.choice(prefixes)
    return workload, ()


def _arrivals(dice: random.Random) -> Content:
    rate = dice.choice((2.0, 20.0, 200.0))
    bursts = {"on_rate": 10 * rate, "off_rate": 0.0, "on_seconds": 0.3, "off_seconds": 2.0}
    phases = [{"seconds": 0.5, "rate": rate}, {"seconds": 1.5, "rate": 0}]
    return dice.choice(
        (
            {"kind": "poisson", "rate": rate},
            {"kind": "gamma", "rate": rate, "cv": 2.0},
            {"kind": "constant", "rate": rate},
            {"kind": "at_once"},
            {"kind": "piecewise", "phases": phases, "repeat": True},
            {"kind": "on_off", **bursts},
        )
    )


def _lengths(dice: random.Random) -> Content:
    """Lengths, of which some may be longer than anything that the engine serves."""

    def draw(most: int) -> Content:
        return dice.choice(
            (
                _fixed("tokens", dice.randint(1, most)),
                {"kind": "uniform", "low": 1, "high": most},
                {"kind": "lognormal", "mean": most / 3 + 1, "cv": 1.0},
            )
        )

    return {
        "prompt": draw(dice.choice((40, 40, 3, 150))),
        "output": draw(dice.choice((60, 60, 20, 2))),
    }


def _fixed(unit: str, value: float) -> Content:
    return {"kind": "fixed", unit: value}


def _groups(dice: random.Random) -> Content:
    return {"kind": "groups", "groups": dice.randint(1, 3), "tokens": dice.choice((5, 16, 33))}


def _conversations(dice: random.Random) -> Content:
    return {
        "kind": "conversations",
        "turns": {"kind": "uniform", "low": 1, "high": 5},
        "think": {"kind": "exponential", "mean": 0.4},
        "groups": 2,
        "tokens": dice.choice((0, 20)),
    }


def _trace(dice: random.Random, requests: int) -> tuple[Content, ...]:
    """Requests of a service, whose prompts begin alike in blocks of 16 tokens."""
    at, lines = 0, []
    for number in range(requests):
        at += dice.choice((0, 0, 1, 40, 700))
        tokens = dice.randint(1, 120)
        blocks = -(-tokens // 16)
        alike = dice.randint(0, blocks)
        talk = dice.randint(1, 3) * 1000
        ids = [talk + at for at in range(alike)]
        ids += [10_000 * (number + 1) + at for at in range(alike, blocks)]
        lines.append(
            {
                "timestamp": at,
                "input_length": tokens,
                "output_length": dice.randint(1, 40),
                "hash_ids": ids,
            }
        )
    return tuple(lines)


# ---- how much memory --------------------------------------------------------------------


def _sized(world: World, pressure: float, folder: Path) -> World | None:
    """Give the pool so many blocks that `pressure` of the longest requests fit; None: refused."""
    try:
        roomy = prepare(_with_blocks(world, _ROOMY).written(folder))
        curve: BlockCurve = roomy.sizing.pools.main.curve
        longest = curve.blocks_at(roomy.deployment.options.max_model_len)
        sized = _with_blocks(world, int(longest * pressure) + 1)
        make_scheduler(prepare(sized.written(folder)), Recorder())
    except (InputError, UnsupportedError):
        return None
    return sized


def _with_blocks(world: World, blocks: int) -> World:
    engine = world.content["engine"] | {"num_gpu_blocks_override": blocks}
    return World(**{**vars(world), "content": world.content | {"engine": engine}})
