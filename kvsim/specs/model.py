"""A model as kvsim sees it: groups of layers that are alike, and what surrounds them.

Readers (``kvsim.readers``) turn a ``config.json``, a GGUF header or a catalogue entry into
a `ModelSpec`; nothing else in kvsim knows those formats.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from kvsim.specs.attention import Attention
from kvsim.specs.checked import Checked, NonNegativeInt, PositiveFloat, PositiveInt, Within
from kvsim.specs.vision import VisionTower

__all__ = [
    "QUANTISED_FAMILIES",
    "DeclaredKV",
    "DenseMlp",
    "DraftLayers",
    "FamilyFormat",
    "FamilyName",
    "LayerGroup",
    "Mlp",
    "ModelSpec",
    "MoeMlp",
    "RopeScaling",
]

FamilyName = Literal[
    "embedding",
    "position",
    "output_head",
    "attention",
    "attention_output",
    "mlp",
    "experts",
    "shared_experts",
    "latent",
    "router",
    "norms",
    "recurrent",
    "other",
]
# The linear layers that weight formats apply to, as a rule the largest first; routers stay
# exact in every checkpoint.
QUANTISED_FAMILIES: tuple[FamilyName, ...] = (
    "experts",
    "mlp",
    "shared_experts",
    "latent",
    "attention",
    "attention_output",
    "recurrent",
)


class DenseMlp(Checked):
    """A feed-forward block: two matrices, three when gated (SwiGLU, GeGLU)."""

    kind: Literal["dense"] = "dense"
    intermediate_size: PositiveInt
    gated: bool = True
    bias: bool = False


class MoeMlp(Checked):
    """A mixture of experts: `experts` of them, `experts_per_token` read by each token.

    With a `latent_size` the experts work in that width, between two projections that all of them
    share (Nemotron 3, Kimi K3); what every token passes through beside them does not.
    """

    kind: Literal["moe"] = "moe"
    experts: PositiveInt
    experts_per_token: PositiveInt
    intermediate_size: PositiveInt
    shared_intermediate_size: NonNegativeInt = 0
    latent_size: PositiveInt | None = None
    gated: bool = True
    bias: bool = False


Mlp = DenseMlp | MoeMlp


class DeclaredKV(Checked):
    """The KV cache format that a quantised checkpoint asks for.

    Parameters
    ----------
    format : str
        A `kvsim.specs.precision.KVFormat` name.
    method : str
        What quantised it: engines know some methods' declarations and not others'.
    """

    format: Literal["fp8_e4m3", "nvfp4"]
    method: Literal["modelopt", "compressed-tensors"]


class RopeScaling(Checked):
    """How a config stretches its rotary positions.

    Parameters
    ----------
    kind : str
        "default", "linear", "dynamic", "yarn", "llama3", "longrope", ...
    factor : float or None
        By how much, where it says so.
    original_positions : int or None
        Positions that are stretched, where it says so.
    """

    kind: str
    factor: PositiveFloat | None = None
    original_positions: PositiveInt | None = None


class LayerGroup(Checked):
    """Layers that are alike in what they cache and what they compute.

    Parameters
    ----------
    name : str
        "full", "sliding", "mamba2", ... unique inside a model.
    layers : tuple of int
        Indices of the layers in the model, ascending.
    caches : tuple of Attention
        What each layer keeps: one entry as a rule, none for an MLP-only layer, two for a
        decoder layer with cross attention.
    mlp : Mlp or None
        The layer's feed-forward block, if it has one.
    shares_kv_with : str or None
        The group whose K and V these layers read instead of keeping their own (Gemma 3n).
    """

    name: str
    layers: Annotated[tuple[int, ...], Within(least=1)]
    caches: tuple[Attention, ...] = ()
    mlp: Mlp | None = None
    shares_kv_with: str | None = None

    @property
    def count(self) -> int:
        """Number of layers in the group."""
        return len(self.layers)

    @property
    def encoder_tokens(self) -> int:
        """Tokens of an encoder that these layers keep, and none of the sequence; 0: the sequence's.

        Llama 3.2 Vision has such layers; a decoder layer of Whisper keeps both.
        """
        if len(self.caches) != 1 or self.caches[0].grows:
            return 0
        return self.caches[0].states(0)

    @property
    def owned_caches(self) -> tuple[Attention, ...]:
        """The caches that these layers allocate: none when K and V are shared."""
        return () if self.shares_kv_with else self.caches


class FamilyFormat(Checked):
    """How a checkpoint stores one family of tensors.

    Parameters
    ----------
    family : str
        The tensor family.
    format : str or None
        A `kvsim.specs.precision.WeightFormat` name; None is left in the model's `dtype`.
    layers : tuple of int or None
        The layers where it is stored so; None is everywhere.
    """

    family: FamilyName
    format: str | None
    layers: tuple[int, ...] | None = None


class DraftLayers(Checked):
    """Layers that a checkpoint has beside the decoder's, for multi-token prediction.

    Each is one like the decoder's last, behind a matrix that joins the hidden state with the
    token's embedding. Engines load them to speculate, and leave them in the file otherwise.
    """

    count: PositiveInt
    keeps_tables: bool = False  # an embedding and an output head of its own


class ModelSpec(Checked):
    """Everything about a model that memory and step time depend on.

    Parameters
    ----------
    name : str
        Catalogue name, or the name of the file that was read.
    hf_id : str
        Repository on the Hugging Face hub, or "".
    architecture : str
        The config's ``architectures[0]`` or ``model_type``.
    hidden_size, vocab_size : int
        Width of the residual stream; rows of the embedding.
    position_embeddings : int
        Rows of a learned position table; 0 for rotary, ALiBi or none.
    max_position_embeddings : int
        Longest context that the config states, in tokens; an engine may multiply it.
    rope_scaling : tuple of RopeScaling
        What it multiplies it by: one entry, or one a kind of layer.
    original_positions : int or None
        Positions before longrope stretched them, where the config says so outside the scaling.
    tie_embeddings : bool
        Whether the output head is the embedding.
    dtype : str
        Native dtype of activations and unquantised weights ("bf16", "fp16", "fp32").
    quantization : str or None
        Main weight format (a `kvsim.specs.precision.WeightFormat` name): of all matrices
        inside layers but the routers.
    family_formats : tuple of FamilyFormat
        What the checkpoint stores in another one; the first that fits a tensor holds.
    declared_kv : DeclaredKV or None
        The KV cache format that the checkpoint asks for, if it does.
    spared_parameters : int
        Parameters of quantisable matrices that the checkpoint leaves in `dtype` all the
        same, where families do not say which.
    layer_groups : tuple of LayerGroup
        All layers, each in exactly one group.
    other_parameters : int
        Parameters outside the text decoder (vision tower, audio encoder), kept in `dtype`.
    vision : VisionTower or None
        The vision tower, where it is of a family that is known.
    whole_media_tokens : int
        Tokens of the longest image or video where the model attends to those both ways: a step
        takes one whole. 0 where they may be computed in chunks.
    rotary_table_elements : int or None
        Elements of the cosine and sine tables that engines compute at load; None is one
        table of `max_position_embeddings` rows. Gemma 3 has two, one of them eight times
        longer by its linear scaling.
    draft : DraftLayers or None
        Layers of the checkpoint that only draft, of a family that is known.
    idle_window : int or None
        A window of all layers that no context outgrows: they are full, and an engine may page them
        as windows.
    weight_bytes_on_disk : int or None
        Exact size of the checkpoint's tensors where a safetensors or GGUF header gave it.
    source : str
        Where these facts come from.
    idle_overrides : tuple of str
        Fields of the config that a flag has overridden, and that change nothing here.
    """

    name: str
    hf_id: str = ""
    architecture: str = ""
    hidden_size: PositiveInt
    vocab_size: PositiveInt
    position_embeddings: NonNegativeInt = 0
    max_position_embeddings: PositiveInt
    rope_scaling: tuple[RopeScaling, ...] = ()
    original_positions: PositiveInt | None = None
    tie_embeddings: bool = False
    dtype: str = "bf16"
    quantization: str | None = None
    family_formats: tuple[FamilyFormat, ...] = ()
    declared_kv: DeclaredKV | None = None
    spared_parameters: NonNegativeInt = 0
    layer_groups: Annotated[tuple[LayerGroup, ...], Within(least=1)]
    other_parameters: NonNegativeInt = 0
    vision: VisionTower | None = None
    whole_media_tokens: NonNegativeInt = 0
    rotary_table_elements: NonNegativeInt | None = None
    draft: DraftLayers | None = None
    idle_window: PositiveInt | None = None
    weight_bytes_on_disk: int | None = None
    source: str = ""
    idle_overrides: tuple[str, ...] = ()

    @cached_property
    def num_layers(self) -> int:
        """Layers in the decoder, MLP-only ones included."""
        return sum(group.count for group in self.layer_groups)

    @cached_property
    def encoder_tokens(self) -> int:
        """Tokens of an encoder that some layers keep in place of the sequence's; 0: none do."""
        return max(group.encoder_tokens for group in self.layer_groups)

    @property
    def scaled_positions(self) -> int:
        """Longest context by any engine's reading: what is stated, or what scaling makes of it."""
        stated = self.max_position_embeddings
        scaled = (
            int((rope.original_positions or stated) * (rope.factor or 1))
            for rope in self.rope_scaling
            if rope.kind not in ("longrope", "llama3")
        )
        return max((stated, *scaled))

    def group(self, name: str) -> LayerGroup:
        """Return the layer group called `name` (KeyError when there is none)."""
        return next(group for group in self.layer_groups if group.name == name)
