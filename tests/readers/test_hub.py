"""`hf:org/name` against a mirror on this machine: what is fetched, cached and refused.

The client library reads its environment when it is imported, so each case runs in a process
of its own.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kvsim.errors import InputError, MissingExtraError
from kvsim.readers.hub import spec_from_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": 64,
    "max_position_embeddings": 32,
    "torch_dtype": "float16",
}
INDEX = {"metadata": {"total_size": 4242}, "weight_map": {}}
SCRIPT = """
import json, sys, time
time.sleep = lambda seconds: None  # the client waits longer after each failed attempt
from kvsim.errors import KVSimError
from kvsim.readers.hub import spec_from_hub
try:
    spec = spec_from_hub(*sys.argv[1:])
except KVSimError as error:
    print(f"{type(error).__name__}: {error}")
else:
    shown = ("name", "hf_id", "dtype", "quantization", "weight_bytes_on_disk")
    print(json.dumps({name: getattr(spec, name) for name in shown}))
"""


@dataclass
class Mirror:
    """Files by repository, refusals by repository, and every path that was asked for."""

    files: dict = field(default_factory=dict)
    refusals: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    url: str = ""

    def answer(self, path):
        """Status, headers and body of ``/org/name/resolve/revision/file``."""
        self.asked.append(path)
        repo, _, rest = path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if repo in self.refusals:
            status, code = self.refusals[repo]
            return status, {"X-Error-Code": code}, b""
        if repo not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Repo-Commit": COMMIT}, b""
        if file not in self.files[repo]:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        body = self.files[repo][file]
        etag = hashlib.sha1(body).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body


@pytest.fixture
def mirror():
    state = Mirror(
        files={
            "org/sharded": {
                "config.json": json.dumps(CONFIG).encode(),
                "model.safetensors.index.json": json.dumps(INDEX).encode(),
                "model-00001-of-00001.safetensors": b"never to be fetched",
            },
            "org/single": {"config.json": json.dumps(CONFIG).encode()},
            "org/adapter": {"adapter_config.json": b"{}"},
            "org/broken": {"config.json": b'{"model_type": '},
        },
        refusals={"org/gated": (403, "GatedRepo")},
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = state.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def ask(mirror, tmp_path):
    """Run `spec_from_hub` in a process with a cache of its own; return what it prints."""
    pytest.importorskip("huggingface_hub")

    def ask(*arguments, **environment):
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "PYTHONPATH") if key in os.environ}
        own = {
            "HF_ENDPOINT": mirror.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HOME": str(tmp_path),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**kept, **own, **environment},
        )
        assert "Traceback" not in done.stderr, done.stderr
        (line,) = done.stdout.splitlines()
        return line

    return ask


def files_asked(mirror):
    return {path.rpartition("/")[2] for path in mirror.asked}


def test_config_and_index_are_fetched_and_weights_never(ask, mirror):
    spec = json.loads(ask("org/sharded"))
    assert spec == {
        "name": "sharded",
        "hf_id": "org/sharded",
        "dtype": "fp16",
        "quantization": None,
        "weight_bytes_on_disk": 4242,
    }
    assert files_asked(mirror) == {
        "config.json",
        "model.safetensors.index.json",
        "hf_quant_config.json",
    }


def test_modelopts_file_is_fetched_where_the_config_names_no_format(ask, mirror):
    beside = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    mirror.files["org/single"]["hf_quant_config.json"] = json.dumps(beside).encode()
    assert json.loads(ask("org/single"))["quantization"] == "nvfp4"


def test_a_config_that_names_its_format_needs_no_second_file(ask, mirror):
    config = {**CONFIG, "quantization_config": {"quant_method": "fp8"}}
    mirror.files["org/single"]["config.json"] = json.dumps(config).encode()
    assert json.loads(ask("org/single"))["quantization"] == "fp8"
    assert "hf_quant_config.json" not in files_asked(mirror)


def test_a_model_without_an_index_is_computed(ask):
    assert json.loads(ask("org/single"))["weight_bytes_on_disk"] is None


def test_what_is_cached_of_a_commit_is_not_asked_for_again(ask, mirror):
    for repo in ("org/single", "org/sharded"):
        ask(repo)
        mirror.asked.clear()
        ask(repo)
        assert files_asked(mirror) == {"config.json"}  # is the branch still at this commit?


def test_a_commit_is_a_revision(ask, mirror):
    assert json.loads(ask("org/single", COMMIT))["hf_id"] == "org/single"
    assert all(f"/resolve/{COMMIT}/" in path for path in mirror.asked)


def test_offline_mode_reads_the_cache_and_asks_nobody(ask, mirror):
    online = ask("org/sharded")
    mirror.asked.clear()
    assert ask("org/sharded", HF_HUB_OFFLINE="1") == online
    assert mirror.asked == []


def test_offline_without_a_cached_copy_says_so(ask, mirror):
    line = ask("org/sharded", HF_HUB_OFFLINE="1")
    assert line.startswith("InputError: hf:org/sharded: is not in the cache, and HF_HUB_OFFLINE")
    assert mirror.asked == []


def test_an_endpoint_that_is_not_there_is_named(ask):
    line = ask("org/sharded", HF_ENDPOINT="http://127.0.0.1:9")
    assert line.startswith(
        "InputError: hf:org/sharded: is not in the cache, and http://127.0.0.1:9"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["org/nothing"], "no such repository"),
        (["org/gated"], "is gated"),
        (["org/adapter"], "has no config.json"),
        (["org/single", "v9"], "has no such revision"),
        (["org/broken"], "is not whole JSON"),
    ],
)
def test_a_refusal_is_one_line(ask, arguments, words):
    line = ask(*arguments)
    assert line.startswith("InputError: ")
    assert words in line
    assert len(line) < 400


@pytest.mark.parametrize(
    "repo_id",
    [
        "../x",
        "org/../../etc",
        "org/na me",
        "/etc/passwd",
        "org/name/more",
        "",
        "org/",
        "o\nrg/name",
        "org/name\n",
        "-x/y",
        "org/a--b",
        "https://example.org/x",
        "org/" + "x" * 200,
    ],
)
def test_hostile_names_never_reach_the_client(repo_id, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # reaching it would be an error
    with pytest.raises(InputError, match="not a repository's name") as error:
        spec_from_hub(repo_id)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("revision", ["../main", "a b", "", "/main", "main/", "a..b", "x\n"])
def test_hostile_revisions_never_reach_the_client(revision, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="is not a revision"):
        spec_from_hub("org/name", revision)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"kvsim\[hub\]"):
        spec_from_hub("gpt2")
