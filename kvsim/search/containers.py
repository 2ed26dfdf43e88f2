"""How each engine serves from a container: its image by release and vendor, and its port.

::

    launch line ──split──▶ variables | program | flags      "A=1 vllm serve M --dtype bfloat16"
                                                flags + the words without which only its own
                                                pod could reach it

Images are those that the engines publish: vLLM's documentation (deployment/docker), SGLang's
(get_started/install), TensorRT-LLM's (quick-start-guide), llama.cpp's (docs/docker.md). All four
answer 200 at ``/health`` once they serve.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from kvsim.engines import get_engine
from kvsim.errors import UnsupportedError
from kvsim.specs.hardware import AcceleratorProfile

__all__ = ["HEALTH_PATH", "LaunchLine", "Server", "image_of", "server_of"]

HEALTH_PATH = "/health"

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*=")
# Programs that the images have by another name: SGLang's documents python3, and llama.cpp's has
# its server outside the path.
_IN_IMAGES = {"python": "python3", "llama-server": "/app/llama-server"}
_RELEASE = re.compile(r"v?(\d+(?:\.\d+)*)(.*)")


@dataclass(frozen=True)
class LaunchLine:
    """The parts of a launch line.

    Parameters
    ----------
    environment : mapping of str to str
        Variables that stand before the program.
    command : tuple of str
        The program's words.
    args : tuple of str
        What it is given.
    model : str
        The model that it loads: a name of the hub, or a file without its ending.
    """

    environment: Mapping[str, str]
    command: tuple[str, ...]
    args: tuple[str, ...]
    model: str


@dataclass(frozen=True)
class Server:
    """What an engine's launch line looks like, and where it listens.

    Parameters
    ----------
    program_words : int
        Words of the program, before what it is given.
    model_after : str
        The word that the model follows.
    port : int
        Where it listens, in its own documentation.
    listen : tuple of str
        Flags that make it listen there to others than its own machine.
    downloads : bool
        Whether it fetches the model from the hub; else a file must be there.
    """

    program_words: int
    model_after: str
    port: int
    listen: tuple[str, ...] = ()
    downloads: bool = True

    def split(self, line: str) -> LaunchLine:
        """Split a launch line into what a container needs to be told.

        A line that only a shell understands (TensorRT-LLM's ``<(echo ...)``) is given to bash.
        """
        words = shlex.split(line)
        variables = 0
        while _VARIABLE.match(words[variables]):
            variables += 1
        environment = dict(word.split("=", 1) for word in words[:variables])
        words = words[variables:]
        model = words[words.index(self.model_after) + 1].removesuffix(".gguf")
        if "<(" in line:
            script = " ".join(("exec", line, *self.listen))
            return LaunchLine({}, ("bash", "-c"), (script,), model)
        program, args = words[: self.program_words], words[self.program_words :]
        program[0] = _IN_IMAGES.get(program[0], program[0])
        return LaunchLine(environment, tuple(program), (*args, *self.listen), model)


def _anywhere(port: int) -> tuple[str, ...]:
    return "--host", "0.0.0.0", "--port", str(port)


_SERVERS = {
    "vllm": Server(2, "serve", 8000),
    "sglang": Server(3, "--model-path", 30000, _anywhere(30000)),
    "tensorrt-llm": Server(1, "trtllm-serve", 8000, _anywhere(8000)),
    "llama.cpp": Server(1, "-m", 8080, _anywhere(8080), downloads=False),
}

# Engine and vendor: the image, and the first release that is known to have one of this name.
_IMAGES: dict[tuple[str, str], tuple[str, tuple[int, ...]]] = {
    ("vllm", "NVIDIA"): ("vllm/vllm-openai:v{release}", (0, 5, 1)),
    ("vllm", "AMD"): ("vllm/vllm-openai-rocm:v{release}", (0, 14)),
    ("sglang", "NVIDIA"): ("lmsysorg/sglang:v{release}", (0, 5, 5)),
    ("sglang", "AMD"): ("lmsysorg/sglang:v{release}-rocm700-{family}", (0, 5, 6)),
    ("tensorrt-llm", "NVIDIA"): ("nvcr.io/nvidia/tensorrt-llm/release:{release}", (0, 20)),
    ("llama.cpp", "NVIDIA"): ("ghcr.io/ggml-org/llama.cpp:server-cuda{build}", (4927,)),
    ("llama.cpp", "AMD"): ("ghcr.io/ggml-org/llama.cpp:server-rocm{build}", (9014,)),
}
_FAMILIES = {"MI300X": "mi30x", "MI325X": "mi30x", "MI350X": "mi35x", "MI355X": "mi35x"}


def server_of(engine: str) -> Server:
    """Return how an engine serves.

    Raises
    ------
    UnsupportedError
        For an engine without a server.

    Examples
    --------
    >>> server_of("vllm").split("vllm serve Qwen/Qwen3-8B --max-num-seqs 64").args
    ('Qwen/Qwen3-8B', '--max-num-seqs', '64')
    """
    if engine not in _SERVERS:
        raise UnsupportedError(
            f"{engine} is a library: no container serves it; choose {', '.join(_SERVERS)}"
        )
    return _SERVERS[engine]


def image_of(engine: str, version: str, accelerator: AcceleratorProfile) -> str:
    """Return the image that an engine publishes of a release for a vendor's devices.

    Parameters
    ----------
    engine : str
        Its name.
    version : str
        Release, as `kvsim.engines.get_engine` takes it; "" is the newest whose rules are known.
    accelerator : AcceleratorProfile
        The device.

    Raises
    ------
    UnsupportedError
        When no image is known.

    Examples
    --------
    >>> from kvsim.catalog.accelerators import find_accelerator
    >>> image_of("vllm", "0.19.1", find_accelerator("h100"))
    'vllm/vllm-openai:v0.19.1'
    """
    named = get_engine(engine, version).version
    image, first = _IMAGES.get((engine, accelerator.vendor), ("", ()))
    parts = {
        "release": _release(named, first),
        "build": _build(named, first),
        "family": _FAMILIES.get(accelerator.name),
    }
    if not image or any(parts[name] is None for name in parts if f"{{{name}}}" in image):
        raise UnsupportedError(
            f"no image of {engine} {named} for {accelerator.name} is known; give the image of yours"
        )
    return image.format(**parts)


def _release(version: str, first: tuple[int, ...]) -> str | None:
    """Return "0.19.1" of "v0.19.1", "1.4.0" of "1.4"; None before the first that has an image."""
    match = _RELEASE.fullmatch(version)
    numbers = match[1].split(".") if match else []
    if match is None or tuple(map(int, numbers)) < first:
        return None
    return ".".join(numbers + ["0"] * (3 - len(numbers))) + match[2]


def _build(version: str, first: tuple[int, ...]) -> str | None:
    """Return "-b5200" of a build of llama.cpp, "" of its newest; None as `_release` does."""
    if version == "master":
        return ""
    number = version.removeprefix("b")
    return f"-b{number}" if number.isdigit() and (int(number),) >= first else None
