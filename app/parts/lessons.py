"""The six steps of the Learn page: words, sliders, and pictures that kvsim computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import streamlit as st

import kvsim
from app.parts import catalogue, planning, shown
from app.parts.command_line import command_line, python_line
from app.parts.planning import Subject
from app.parts.rows import ask_row
from app.parts.trouble import in_place
from app.state import Choice, Count, Field, Flag, PageState, Pick, Several
from kvsim import figures
from kvsim.studies import lessons

__all__ = ["FIELDS", "LESSONS", "Lesson"]


class Lesson(NamedTuple):
    """One step: what it says before and after its pictures, and how they are shown.

    `show` asks for what moves them, shows them, and returns the equivalent command line.
    """

    title: str
    text: str
    takeaway: str
    show: Callable[[PageState], str]


_SHAPE = lessons.HeadShape()
_OTHER_POLICIES = ("budget:1024", "heads:0.5", "layers:0.5")
_CONTEXTS = (1024, 4096, 16_384, 65_536, 131_072)

FIELDS: tuple[Field, ...] = (
    Pick(
        key="lesson",
        label="Step",
        default="1",
        options=lambda: list(LESSONS),
        show=lambda name: f"{name} {LESSONS[name].title}",
    ),
    catalogue.model_field(default="llama3.1-8b"),
    catalogue.card_field(default="A100-SXM4-80GB"),
    Count(key="tokens", label="Tokens so far", default=6, least=2, most=12, slider=True),
    Flag(key="cached", label="Keep K and V", default=True),
    Count(key="prompt", label="Prompt, tokens", default=512, most=4096, slider=True),
    Count(key="output", label="Output, tokens", default=256, least=2, most=1024, slider=True),
    Count(key="layers", label="Layers", default=_SHAPE.layers, most=128, slider=True),
    Count(key="heads", label="Query heads", default=_SHAPE.heads, most=128, slider=True),
    Count(key="kv_heads", label="KV heads (GQA)", default=_SHAPE.kv_heads, most=128, slider=True),
    Count(key="head_dim", label="Elements per head", default=_SHAPE.head_dim, least=16, most=256,
          step=16, slider=True),
    Count(key="latent", label="MLA's latent, elements", default=_SHAPE.latent, least=64,
          most=2048, step=64, slider=True),
    Choice(key="dtype", label="KV dtype", default="fp16", options=kvsim.kv_format_names),
    Count(key="context", label="Context, tokens", default=2048, most=131_072, slider=True),
    Count(key="batch", label="Largest batch, sequences", default=256, most=2048, slider=True),
    Pick(key="policy", label="Beside paging", default="reserve-max",
         options=lambda: [name for name in lessons.POLICIES if name != "paged"]),
    Pick(key="block", label="Block size, tokens", default="4",
         options=lambda: ["1", "2", "4", "8", "16"]),
    Count(key="step", label="Step of the engine", default=5, least=0, most=60, slider=True),
    Count(key="window", label="Window, tokens", default=1024, most=32_768, slider=True),
    Several(key="kv", label="KV dtypes", default=("bf16", "fp8_e4m3"), most=4,
            options=kvsim.kv_format_names),
    Pick(key="kind", label="Kind", default="causal decoder", options=lambda: list(lessons.KINDS)),
)  # fmt: skip


# --- 1: why K and V ------------------------------------------------------------------------


def _why(state: PageState) -> str:
    left, right = st.columns(2)
    with left:
        tokens = state.ask("tokens")
        cached = state.ask("cached")
        pairs = lessons.attention_pairs(tokens, cached=cached)
        shown.chart(figures.attention_chart(pairs, cached=cached))
    with right:
        model = state.ask("model")
        prompt, output = ask_row(state, "prompt", "output").values()
        with in_place():
            work = lessons.decode_work(kvsim.find_model(model), prompt, output)
            shown.chart(figures.work_chart(work))
    return python_line(
        "import kvsim, kvsim.studies.lessons as lessons",
        f"model = kvsim.find_model({json.dumps(model)})",
        f'print(*lessons.decode_work(model, {prompt}, {output}), sep="\\n")',
    )


# --- 2: growth -----------------------------------------------------------------------------


def _growth(state: PageState) -> str:
    left, right = st.columns([1, 2])
    with left:
        dtype = state.ask("dtype")
        layers, heads = state.ask("layers"), state.ask("heads")
        shape = lessons.HeadShape(
            layers, heads, state.ask("head_dim"), state.ask("kv_heads"), state.ask("latent")
        )
        context = state.ask("context")
    with right, in_place():
        keepings = lessons.keepings(shape, dtype, context)
        shown.chart(figures.heads_chart(keepings, context))
        for each in keepings:
            cost = f"{each.bytes_per_token:,} bytes per token"
            st.caption(f"**{each.kind}**: {each.formula} = {cost}")
        grown = {tokens: lessons.keepings(shape, dtype, tokens) for tokens in _CONTEXTS}
        shown.chart(figures.growth_chart(grown))
    return python_line(
        "from kvsim.studies.lessons import HeadShape, keepings",
        f'print(*keepings({shape!r}, {json.dumps(dtype)}, {context}), sep="\\n")',
    )


# --- 3: the memory wall --------------------------------------------------------------------


def _wall(state: PageState) -> str:
    model, card, context, batch = ask_row(state, "model", "gpu", "context", "batch").values()
    with in_place():
        longest = kvsim.find_model(model).max_position_embeddings
        plan = planning.planned(
            Subject(model),
            Subject(card),
            options=(("max_num_seqs", batch),),
            context_len=min(context, longest),
        )
        left, right = st.columns(2)
        with left:
            shown.chart(figures.roofline_chart(plan))
        with right:
            shown.chart(figures.batch_chart(plan))
    flags = {"model": model, "gpu": card, "context_len": context, "max_num_seqs": batch}
    return command_line("plan", flags)


# --- 4: segments, pages, tables ------------------------------------------------------------


def _blocks(state: PageState) -> str:
    policy, block = ask_row(state, "policy", "block").values()
    stories = [_story(policy, 1), _story("paged", int(block))]
    last = max(len(story.moments) for story in stories) - 1
    moment = state.ask("step", most=last)
    for column, story in zip(st.columns(2), stories, strict=True):
        with column:
            _tell(story, min(moment, len(story.moments) - 1))
    told = f'tell("{policy}", 1), tell("paged", {block})'
    return python_line(
        "from kvsim.studies.lessons import tell",
        f'print(*(now.events for story in ({told}) for now in story.moments), sep="\\n")',
    )


@st.cache_data(show_spinner=False)
def _story(policy: str, block_size: int) -> lessons.Story:
    return lessons.tell(policy, block_size)


def _tell(story: lessons.Story, moment: int) -> None:
    now = story.moments[moment]
    waiting = f" Waiting: {', '.join(now.waiting)}." if now.waiting else ""
    shown.chart(figures.pool_chart(story, moment))
    st.markdown(f"**Step {now.step}.** {' '.join(now.events)}{waiting}")
    held = len(now.slots) - now.count("free")
    numbers = {
        "Tokens": now.count("token"),
        "Slots held": held,
        "Held for nothing": now.count("never"),
        "Requests": len(now.tables),
    }
    shown.metrics(numbers)
    shown.table(figures.block_table(story, moment))


# --- 5: keeping less -----------------------------------------------------------------------


def _less(state: PageState) -> str:
    model, window, dtypes = ask_row(state, "model", "window", "kv").values()
    dtypes = dtypes or ("bf16",)
    policies = (f"window:{window}", f"sinks:4+{window}", *_OTHER_POLICIES)
    with in_place():
        plans = {
            dtype: planning.planned(
                Subject(model),
                Subject("H200"),
                options=(("kv_cache_dtype", dtype),),
                retention=policies,
            )
            for dtype in dtypes
        }
        shown.chart(figures.kept_chart(plans))
        shown.table(figures.kinds_table(plans[dtypes[0]]))
    flags = {"model": model, "gpu": "H200", "retention": policies}
    return "\n".join(command_line("plan", flags | {"kv_cache_dtype": each}) for each in dtypes)


# --- 6: when there is nothing to keep ------------------------------------------------------


def _never(state: PageState) -> str:
    kind = state.ask("kind")
    shown.chart(figures.validity_chart(kind, lessons.kept_states(kind, layers=4, tokens=8)))
    st.markdown("kvsim refuses such a model rather than print a number for it:")
    with in_place():
        kvsim.find_model("bert-base-uncased")
    return command_line("plan", {"model": "bert-base-uncased", "gpu": "a100"})


LESSONS: dict[str, Lesson] = {
    "1": Lesson(
        "Why K and V",
        "To produce a token, its **query** meets the **keys** and **values** of every token so"
        " far. The queries before it have done their work: nobody asks for them again. The old"
        " keys and values are asked for in every step, and in a causal decoder they never"
        " change. So K and V are kept, and Q is not.",
        "With a cache each step computes one token; without, all of them. The price is memory"
        " that grows with every token.",
        _why,
    ),
    "2": Lesson(
        "What a token costs",
        "Each layer keeps a key and a value for every **KV head**. MHA has one for every query"
        " head; GQA lets several query heads share one; MQA has a single one; MLA keeps one"
        " small vector from which all heads' keys and values can be made again.",
        "bytes per token = layers x KV heads x (key + value elements) x bytes per element. The"
        " number of query heads is not in it.",
        _growth,
    ),
    "3": Lesson(
        "The memory wall",
        "A decode step reads all weights once, and every sequence's K and V. A larger batch"
        " shares the weights, so arithmetic grows faster than bytes, until the cache itself is"
        " most of what is read. Left of the **ridge** a step waits for memory, whatever the"
        " card could compute.",
        "Memory is what limits the batch, and the batch is what makes decoding efficient: that"
        " is why KV-cache memory is worth a simulator.",
        _wall,
    ),
    "4": Lesson(
        "Segments, pages, tables",
        "Five requests pass through 64 slots. On the left each reserves one piece of memory"
        " when it is admitted; on the right it takes a **block** whenever it needs one, from"
        " anywhere, and a **block table** says where its tokens lie. Move the slider, or press"
        " Play. Greyed slots are held for tokens to come; an x marks what is held for nothing.",
        "Reservation wastes what is never written, and holes too short for anyone. Paging"
        " wastes less than one block per request.",
        _blocks,
    ),
    "5": Lesson(
        "Keeping less",
        "What is kept can be made smaller: **windows** drop old tokens (some models are trained"
        " that way, and then nothing is lost), **quantisation** keeps every token in fewer"
        " bits, **selective caching** keeps some heads or layers and computes the rest again.",
        "A window that the model was trained with is free. Everything else trades memory for"
        " quality or for arithmetic: the price stands beside each policy.",
        _less,
    ),
    "6": Lesson(
        "When there is no cache",
        "A cache is right under one condition: **what was computed for an earlier token must"
        " stay true when a later token arrives.** In a causal decoder it does. In an encoder"
        " every token looks at every other, so one more token makes every layer but the first"
        " wrong. A diffusion model revises the tokens themselves.",
        "No causal mask, no cache. Positions matter too: an encoding that changes the past"
        " (dynamic NTK scaling, renumbering after eviction) makes kept keys stale.",
        _never,
    ),
}
