"""What is neither weights nor KV: the profiled activation peak, non-torch memory, graphs.

vLLM runs one dummy step before it sizes the cache, and whatever that step needed at its
peak is not given to KV. Three moments compete for the peak::

    encoder   an image model's tower, alone (``encoder.py``)
    forward   tokens * (MLP or attention width + a few residual streams) + what is held
    sampler   sequences * vocabulary * 4 bytes * copies + the step's hidden states + what is held

Held are the encoder's inputs and outputs, and the buffer that kernels share
(``workspaces.py``). The widths follow from the model; the number of copies and the few other
coefficients are fitted, by release and card generation (``data/vllm_overheads.yaml``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kvsim.engines.base import ResolvedDeployment
from kvsim.engines.common import read_data
from kvsim.engines.vllm.encoder import EncoderProfile, encoder_profile
from kvsim.engines.vllm.rules import Rules, architecture, entry_at, kernel_class
from kvsim.engines.vllm.workspaces import keeps_experts, stand_in_bytes, workspace_bytes
from kvsim.memory.rank import Rank
from kvsim.specs.model import LayerGroup, Mlp, MoeMlp
from kvsim.units import GIB, MIB, ceil_div

__all__ = [
    "ProfiledStep",
    "activation_bytes",
    "captured_graphs",
    "coefficient_source",
    "cuda_graph_bytes",
    "fused_all_reduce_bytes",
    "lora_bytes",
    "non_torch_bytes",
    "profiled_images_bytes",
    "profiled_step",
    "sampler_of",
]

_DATA = "vllm_overheads"
_DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_LOGIT_BYTES = 4
_GRAPH_VENDORS = ("NVIDIA", "AMD")
_MAX_CAPTURE = 512
_V0_MAX_CAPTURE = 256
# Degrees that vLLM has a message size for (FI_SUPPORTED_WORLD_SIZES, 0.19.0 config/compilation.py).
_FUSED_WORLDS = (2, 4, 8)
_FUSED_KERNELS = ("hopper", "blackwell")
# CU_MULTICAST_GRANULARITY_RECOMMENDED is taken to be the fabric's page (FlashInfer 0.6.6,
# comm/mnnvl.py:337): rows V007, V016, V020 and V021 (2 and 4 ranks, three hidden sizes) hold
# 2.06 to 2.13 GiB outside torch alike, as units of this size would have it.
_MULTICAST_UNIT = 512 * MIB
# NCCL connects 24 channels through NVSwitches and 2 over PCIe (a ring, doubled). Each holds one
# buffer a protocol (LL 0.5, LL128 4.69, Simple 4 MiB; init.cc, computeBuffSizes) for its ring and
# for its tree: 24 * 2 * 9.19 MiB = 0.43 GiB, where rows V028 and V032 print 0.415.
_NVSWITCH_CHANNELS = 24
_PCIE_CHANNELS = 2


class ProfiledStep(NamedTuple):
    """Sizes of the dummy step's tensors on one rank, bytes.

    Parameters
    ----------
    logits_bytes : int
        One fp32 copy of the logits of every sequence; 0 on stages without the head.
    stream_bytes : int
        One copy of the residual stream of every token.
    width_bytes : int
        Widest layer's intermediate tensors, and the matrix that bitsandbytes unpacks.
    multimodal : bool
        Whether an encoder is profiled too, at once with the step, whose tensors are not counted.
    encoder_bytes : int
        Peak of the encoder that runs before the step.
    held_bytes : int
        What outlives the forward pass beside the weights: the encoder's inputs and outputs, and
        the buffer that kernels share.
    """

    logits_bytes: int
    stream_bytes: int
    width_bytes: int
    multimodal: bool
    encoder_bytes: int = 0
    held_bytes: int = 0


def profiled_step(deployment: ResolvedDeployment, rank: Rank, rules: Rules) -> ProfiledStep:
    """Size the dummy step of a resolved deployment on one rank."""
    options, model = deployment.options, deployment.model
    tokens, seqs = options.max_num_batched_tokens, options.max_num_seqs
    element = _DTYPE_BYTES[options.dtype]
    groups = [group for group in model.layer_groups if rank.count_of(model, group.layers)]
    width = max(_layer_width(deployment, group, rank, rules) for group in groups)
    encoder = encoder_profile(deployment, rank, rules, element)
    counted = encoder or EncoderProfile(0, 0)
    return ProfiledStep(
        logits_bytes=seqs * model.vocab_size * _LOGIT_BYTES * rank.is_last,
        stream_bytes=tokens * model.hidden_size * element,
        width_bytes=tokens * width * element
        + _unpacked_bytes(deployment, element)
        + stand_in_bytes(deployment, rank, rules, element),
        multimodal=bool(model.other_parameters and not model.encoder_tokens) and encoder is None,
        encoder_bytes=counted.peak_bytes,
        held_bytes=counted.held_bytes + workspace_bytes(deployment, rank, rules, element),
    )


def sampler_of(deployment: ResolvedDeployment, rules: Rules) -> str:
    """Name how the profiled sampler restricts the vocabulary: "sorting" or "sortless"."""
    return "sortless" if deployment.options.flashinfer_sampler else str(rules.value("sampler"))


def activation_bytes(step: ProfiledStep, sampler: str) -> int:
    """Peak of the dummy step, bytes, with the fitted coefficients."""
    fitted = read_data(_DATA)["activation"]
    copies = fitted["samplers"][sampler]
    at_sampler = (
        copies["logits_factor"] * step.logits_bytes
        + copies["workspace_mib"] * MIB * bool(step.logits_bytes)
        + fitted["stream_factor"] * step.stream_bytes
    )
    at_forward = step.width_bytes + fitted["forward_stream_factor"] * step.stream_bytes
    encoder = fitted["encoder_stream_factor"] * step.stream_bytes * step.multimodal
    at_step = max(at_sampler, at_forward) + step.held_bytes + encoder
    return int(max(at_step, step.encoder_bytes))


def profiled_images_bytes(deployment: ResolvedDeployment, rules: Rules) -> int:
    """Peak of an encoder that computes an image of every sequence before the dummy step.

    Llama 3.2 Vision's does (0.10.2, ``worker/enc_dec_model_runner.py``, profile_run), each the
    longest. Another model has no such images: 0.
    """
    images = deployment.options.max_num_seqs
    token_bytes = int(rules.value("profiled_image_token_bytes"))
    return images * deployment.model.encoder_tokens * token_bytes


def non_torch_bytes(deployment: ResolvedDeployment, rules: Rules) -> int:
    """Return what the step allocates outside torch: libraries, and NCCL's buffers when sharded.

    Where FlashInfer fuses the all-reduces, its workspace is allocated by the first compiled
    step too, and NCCL, left with fewer collectives, connects fewer channels.
    """
    fitted = read_data(_DATA)
    period = entry_at(fitted["non_torch"], rules.release)
    table: dict[str, float] = period["gib"]
    generation = architecture(deployment.accelerator)
    size: float = table.get(generation, table["unknown"])
    options = deployment.options
    workspace = fused_all_reduce_bytes(deployment, rules)
    if workspace:
        size += fitted["fused_all_reduce"]["nccl_gib"]
    elif options.tensor_parallel_size * options.pipeline_parallel_size > 1:
        size += period["sharded_gib"] * _channels(deployment) / _NVSWITCH_CHANNELS
    return int(size * GIB) + workspace


def _channels(deployment: ResolvedDeployment) -> int:
    """NCCL's channels: few where cards have PCIe alone; a bridge's are taken as a switch's."""
    has_links = deployment.accelerator.interconnect.bytes_per_s > 0
    return _NVSWITCH_CHANNELS if has_links else _PCIE_CHANNELS


def fused_all_reduce_bytes(deployment: ResolvedDeployment, rules: Rules) -> int:
    """Bytes of FlashInfer's all-reduce workspace on each rank: 0 where nothing is fused.

    Fused are tensor-parallel all-reduces of compiled models on Hopper and datacenter
    Blackwell, behind NVSwitches alone: elsewhere vLLM does not ask, or FlashInfer cannot
    allocate (``enable_allreduce_rms_fusion``; "expected on GPUs without NVSwitch").

    The workspace is a buffer, its flags and a triple buffer (FlashInfer 0.6.6,
    ``comm/trtllm_ar.py:596``), each rounded up to what NVIDIA recommends for multicast
    (``comm/mnnvl.py:1141``). At 2 to 8 ranks vLLM asks for at most 64 MiB of messages, so
    each is one such unit, whatever the model.
    """
    options, accelerator = deployment.options, deployment.accelerator
    rule = rules.value("fused_all_reduce")
    if rule is None or options.enforce_eager:
        return 0
    if any(getattr(options, degree) > 1 for degree in rule["alone"]):
        return 0
    is_fused = (
        options.tensor_parallel_size in _FUSED_WORLDS
        and kernel_class(accelerator) in _FUSED_KERNELS
        and accelerator.interconnect.is_switched
    )
    return 3 * _MULTICAST_UNIT * is_fused


def cuda_graph_bytes(deployment: ResolvedDeployment, rules: Rules) -> int:
    """Memory of the captured graphs: a pool, and a share per graph.

    CUDA's, and HIP's on AMD (an extrapolation: every log is an NVIDIA card's). Other devices
    have none.
    """
    if deployment.options.enforce_eager or deployment.accelerator.vendor not in _GRAPH_VENDORS:
        return 0
    if deployment.model.encoder_tokens and not rules.value("image_layer_graphs"):
        return 0
    fitted = read_data(_DATA)["cuda_graph"]
    graphs = captured_graphs(deployment, rules)
    return int((fitted["pool_mib"] + fitted["graph_mib"] * graphs) * MIB)


def lora_bytes(deployment: ResolvedDeployment) -> int:
    """Adapter buffers of one rank: A and B of every linear layer, one adapter slot."""
    options, model = deployment.options, deployment.model
    if not options.enable_lora:
        return 0
    hidden = model.hidden_size
    widths = sum(group.count * _linear_ends(group, hidden) for group in model.layer_groups)
    vocabulary = 2 * (model.vocab_size + hidden)
    # A is replicated and B split in column-parallel layers, the other way in row-parallel ones.
    share = (1 + 1 / options.tensor_parallel_size) / 2 / options.pipeline_parallel_size
    element = _DTYPE_BYTES[options.dtype]
    return int(options.max_lora_rank * (widths + vocabulary) * share * element)


def coefficient_source(name: str) -> str:
    """Where a fitted coefficient comes from, for the provenance of a budget."""
    data: dict[str, Any] = read_data(_DATA)
    return str(data["sources"][name])


def _unpacked_bytes(deployment: ResolvedDeployment, element: int) -> int:
    """Bytes of the largest MLP matrix, which bitsandbytes unpacks to multiply many rows by it."""
    options, model = deployment.options, deployment.model
    if (options.quantization or model.quantization) != "bitsandbytes":
        return 0
    inner = max((g.mlp.intermediate_size for g in model.layer_groups if g.mlp), default=0)
    return model.hidden_size * inner * element // options.tensor_parallel_size


def _layer_width(
    deployment: ResolvedDeployment, group: LayerGroup, rank: Rank, rules: Rules
) -> int:
    """Elements per token of a layer's widest part on one rank."""
    parts = [
        max((cache.activation_width for cache in group.caches), default=0),
        _mlp_width(group.mlp),
    ]
    widths = [ceil_div(part, rank.tp) for part in parts]
    if isinstance(group.mlp, MoeMlp) and not keeps_experts(deployment, group, rules):
        widths.append(_expert_width(group.mlp, deployment.model.hidden_size, rank))
    return max(widths)


def _mlp_width(mlp: Mlp | None) -> int:
    """Elements per token of what every token passes through: up, gate and their product."""
    if mlp is None:
        return 0
    parts = 3 if mlp.gated else 2
    if isinstance(mlp, MoeMlp):
        return parts * mlp.shared_intermediate_size
    return parts * mlp.intermediate_size


def _expert_width(mlp: MoeMlp, hidden: int, rank: Rank) -> int:
    """Elements per token of its experts' rows: of either GEMM, and of their activation.

    Source: ``fused_experts_impl`` (fused_moe.py of 0.10.2): intermediate_cache13 is as wide as
    up and gate or as the stream, whichever is more, on every rank, and intermediate_cache2 as an
    expert.
    """
    inner = mlp.intermediate_size if rank.ep > 1 else ceil_div(mlp.intermediate_size, rank.tp)
    outer = inner * (2 if mlp.gated else 1)
    return mlp.experts_per_token * (max(outer, mlp.latent_size or hidden) + inner)


def _linear_ends(group: LayerGroup, hidden: int) -> int:
    """Inputs plus outputs of a layer's linear maps: what a rank-1 adapter has elements."""
    ends = sum(cache.linear_ends(hidden) for cache in group.caches)
    if group.mlp is not None and not isinstance(group.mlp, MoeMlp):
        ends += (3 if group.mlp.gated else 2) * (hidden + group.mlp.intermediate_size)
    return ends


def captured_graphs(deployment: ResolvedDeployment, rules: Rules) -> int:
    """Count the graphs that are captured, one a batch size, and one more for decode alone.

    Sizes are at most twice `max_num_seqs`, those of decode steps `max_num_seqs` itself
    (``initialize_cudagraph_keys``, v1/cudagraph_dispatcher.py). V0 stopped there and at 256.
    """
    seqs = deployment.options.max_num_seqs
    if rules.is_v0(deployment.model, deployment.accelerator):
        return _sizes_to(min(seqs, _V0_MAX_CAPTURE))
    largest = min(2 * seqs, _MAX_CAPTURE)
    decode = _sizes_to(min(seqs, largest)) if rules.value("full_decode_graphs") else 0
    return _sizes_to(largest) + decode


def _sizes_to(largest: int) -> int:
    """1, 2, 4, then steps of 8 to 256 and of 16 to 512."""
    small = sum(size <= largest for size in (1, 2, 4))
    return small + min(largest, 256) // 8 + max(0, largest - 256) // 16
