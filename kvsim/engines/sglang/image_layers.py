"""Llama 3.2 Vision in SGLang: an image's tokens stand before the text, in the same token pool.

::

    a request's rows of the pool   [ image: 6,404 ][ text ............. ]
    self-attention layers            unused          K and V
    cross-attention layers           K and V         unused

Every layer has all rows. ``--context-length`` counts both parts; a plan's lengths are the text's.

Sources, 0.5.23: ``models/mllama.py`` (pad_input_ids: an image is always padded to its most tiles),
``managers/schedule_batch.py`` (prepare_encoder_info_extend), ``mem_cache/allocation.py`` (rows from
``encoder_lens + seq_lens`` on), ``managers/scheduler.py`` (the padded prompt is what is limited).
"""

from __future__ import annotations

from kvsim.engines.base import Deployment, ResolvedDeployment
from kvsim.engines.sglang.lengths import derived_length
from kvsim.errors import InputError

__all__ = ["check_image_layers", "check_page", "step_tokens", "text_positions"]

# --max-prefill-tokens. Chunked prefill is off (``is_multimodal_chunked_prefill_supported``): a step
# takes whole prompts up to here, or one that is longer.
_PREFILL_TOKENS = 16_384


def text_positions(deployment: Deployment) -> int:
    """Longest text beside an image: what the context has left."""
    model = deployment.model
    return max(1, derived_length(model) - model.encoder_tokens)


def step_tokens(deployment: Deployment) -> int:
    """Tokens of one step."""
    return max(_PREFILL_TOKENS, deployment.options.max_model_len or text_positions(deployment))


def check_image_layers(deployment: Deployment, *, reserves_chunks: bool) -> None:
    """Refuse a text that leaves no room for the image, and what is not known of such layers.

    Parameters
    ----------
    deployment : Deployment
        As it was asked for.
    reserves_chunks : bool
        Whether this release reserves memory by the chunk of a prefill, before it turns chunks off.

    Raises
    ------
    InputError
        Naming the flag.
    """
    options, model = deployment.options, deployment.model
    most, image = text_positions(deployment), model.encoder_tokens
    if options.max_model_len is not None and options.max_model_len > most:
        raise InputError(
            f"{options.max_model_len:,} tokens of text after an image of {image:,} exceed the"
            f" {model.max_position_embeddings:,} positions of {model.name}",
            where="--max-model-len",
            fix=f"choose at most {most}: SGLang's --context-length counts both",
        )
    chunks = reserves_chunks and options.gpu_memory_utilization is None
    if options.max_num_batched_tokens is not None and not chunks:
        raise InputError(
            f"SGLang turns --chunked-prefill-size off for {model.name}, and reserves no memory by"
            " it here",
            where="--max-num-batched-tokens",
            fix="leave it out",
        )
    if options.decode_context_parallel_size > 1:
        raise InputError(
            f"how SGLang shards the image of {model.name} over ranks is not known",
            where="--decode-context-parallel-size",
            fix="choose 1",
        )
    if options.enable_prefix_caching:
        raise InputError(
            f"each request of {model.name} begins with an image of its own here, so that no prefix"
            " is shared",
            where="--enable-prefix-caching",
            fix="leave it out",
        )


def check_page(deployment: ResolvedDeployment) -> None:
    """Refuse pages that an image does not fill: one would hold its end and the text's beginning.

    Raises
    ------
    InputError
        Naming the flag.
    """
    page, image = deployment.options.block_size, deployment.model.encoder_tokens
    if image % page:
        raise InputError(
            f"an image of {image:,} tokens does not fill pages of {page}",
            where="--block-size",
            fix="choose 1",
        )
