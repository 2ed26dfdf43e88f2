"""Manifests of a fleet: what Kubernetes and KServe take, and what the engine is told by them."""

import re
import shlex
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import kvsim
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.errors import InputError, UnsupportedError
from kvsim.search import Fleet, FleetOption, RateSearch, SearchSettings
from kvsim.search.manifests import dns_label
from kvsim.specs.hardware import Price
from kvsim.specs.yaml_files import data_folder, parse_yaml

CHECKERS = "`pip install kubernetes-validate kserve` (400 MB) lets their own checkers judge"
LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")  # RFC 1035, which is within RFC 1123
ENGINES = {"vllm": "0.19.1", "sglang": "0.5.18", "tensorrt-llm": "1.2.0", "llama.cpp": "b5200"}
# What the images call them.
PROGRAMS = {"vllm": "vllm", "python": "python3", "llama-server": "/app/llama-server"}
# What each listens with to others than its own pod.
LISTEN = {
    "vllm": [],
    "sglang": ["--host", "0.0.0.0", "--port", "30000"],
    "tensorrt-llm": ["--host", "0.0.0.0", "--port", "8000"],
    "llama.cpp": ["--host", "0.0.0.0", "--port", "8080"],
}


def launch_line(engine="vllm", model="llama3.1-8b", card="h100", **options):
    """The engine's own launch line."""
    asked = kvsim.EngineOptions(**options)
    spec = find_model(model)
    release = ENGINES.get(engine, "")
    return get_engine(engine, release).command(Deployment(spec, find_accelerator(card), asked))


def option(card="h100", command="vllm serve meta-llama/Llama-3.1-8B", rate=4.0, **changes):
    """A card that carries 10 requests/s with replicas of `rate` each."""
    search = RateSearch(rate, None, None, None, (), 0, SearchSettings())
    facts = {"tensor_parallel_size": 1, "demand": 10.0, "price": Price(low=2, high=3)}
    name = find_accelerator(card).name
    return FleetOption(name, command=command, search=search, **(facts | changes))


def fleet(engine="vllm", card="h100", degree=1, **options):
    """A fleet as a search answers it."""
    tp = {} if engine == "llama.cpp" or degree == 1 else {"tensor_parallel_size": degree}
    line = launch_line(engine, card=card, **tp, **options)
    stages = options.get("pipeline_parallel_size", 1)
    answer = option(card, line, tensor_parallel_size=degree, stages=stages)
    return kvsim.fleet_of(answer, engine, ENGINES[engine])


def documents(text):
    return list(yaml.safe_load_all(text))


def pod_of(text):
    """The pod's spec of either manifest."""
    spec = documents(text)[0]["spec"]
    return spec["predictor"] if "predictor" in spec else spec["template"]["spec"]


def container_of(text):
    (container,) = pod_of(text)["containers"]
    return container


BOTH = pytest.mark.parametrize("manifest", [kvsim.deployment_manifest, kvsim.kserve_manifest])
FLEETS = {
    "vllm": lambda: fleet(max_num_seqs=64),
    "vllm-tp4": lambda: fleet(degree=4, kv_cache_dtype="fp8"),
    "vllm-environment": lambda: fleet(flashinfer_sampler=True),
    "sglang": lambda: fleet("sglang", degree=2),
    "sglang-amd": lambda: fleet("sglang", "mi300x"),
    "tensorrt-llm": lambda: fleet("tensorrt-llm", degree=2, kv_cache_dtype="fp8"),
    "llama.cpp": lambda: fleet("llama.cpp", pipeline_parallel_size=2),
    "no-label": lambda: fleet("vllm", "mi355x"),
}
EVERY = pytest.mark.parametrize("make", FLEETS.values(), ids=FLEETS.keys())


# --- what the engine is told -----------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_the_container_runs_the_launch_line(engine, manifest):
    line = launch_line(engine, max_num_seqs=64)
    container = container_of(manifest(kvsim.fleet_of(option(command=line), engine)))
    program, *rest = shlex.split(line)
    words = [PROGRAMS[program], *rest]
    assert container["command"] + container["args"] == words + LISTEN[engine]


def test_a_line_for_a_shell_is_given_to_one():
    """``<(echo ...)`` is a file that bash makes."""
    line = launch_line("tensorrt-llm", kv_cache_dtype="fp8", tensor_parallel_size=2)
    assert "<(" in line
    container = container_of(
        kvsim.deployment_manifest(fleet("tensorrt-llm", degree=2, kv_cache_dtype="fp8"))
    )
    assert container["command"] == ["bash", "-c"]
    assert container["args"] == [" ".join(["exec", line, *LISTEN["tensorrt-llm"]])]


def test_variables_before_the_line_are_the_containers():
    line = launch_line(flashinfer_sampler=True)
    variable, _, rest = line.partition(" ")
    container = container_of(kvsim.deployment_manifest(kvsim.fleet_of(option(command=line))))
    assert {"name": variable.split("=")[0], "value": "1"} in container["env"]
    assert container["command"] + container["args"] == shlex.split(rest)


def expanded(word):
    """What a container gets of a word, by third_party/forked/golang/expansion of Kubernetes."""
    return re.sub(r"\$(\$|\([^)]*\))", lambda found: "$" if found[1] == "$" else "", word)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), max_size=4))
def test_words_reach_the_engine_as_they_are(words):
    line = shlex.join(["vllm", "serve", "org/model", *words])
    for manifest in (kvsim.deployment_manifest, kvsim.kserve_manifest):
        args = container_of(manifest(kvsim.fleet_of(option(command=line))))["args"]
        assert [expanded(arg) for arg in args] == ["org/model", *words]


@pytest.mark.parametrize("engine", ["sglang", "tensorrt-llm", "llama.cpp"])
@pytest.mark.parametrize("name", ["it's mine", "a b;c"])
def test_an_odd_model_is_one_word_of_a_launch_line(engine, name):
    spec = find_model("llama3.1-8b").model_copy(update={"hf_id": "", "name": name})
    line = get_engine(engine).command(Deployment(spec, find_accelerator("h100")))
    assert kvsim.fleet_of(option(command=line), engine).model == name


# --- the pod ---------------------------------------------------------------------------------


@BOTH
@EVERY
def test_a_pod_has_its_devices_and_asks_for_no_others(make, manifest):
    made = make()
    resources = container_of(manifest(made))["resources"]
    assert resources["requests"] == resources["limits"] == {made.gpu_resource: made.devices}


@BOTH
def test_replicas_carry_the_demand(manifest):
    spec = documents(manifest(kvsim.fleet_of(option(rate=4.0))))[0]["spec"]
    found = spec.get("replicas") or spec["predictor"]["minReplicas"]
    assert found == 3  # 10 requests/s, 4 each
    assert spec.get("predictor", {}).get("maxReplicas", 3) == 3


@BOTH
@pytest.mark.parametrize("degree", [1, 2, 8])
def test_several_devices_share_memory(degree, manifest):
    pod = pod_of(manifest(fleet(degree=degree)))
    shared = [
        each for each in pod.get("volumes", []) if each.get("emptyDir") == {"medium": "Memory"}
    ]
    assert len(shared) == (degree > 1)
    mounts = pod["containers"][0].get("volumeMounts", [])
    assert [(each["name"], each["mountPath"]) for each in mounts] == [
        (each["name"], "/dev/shm") for each in shared
    ]


@BOTH
def test_a_model_in_a_file_is_mounted_where_the_engine_looks(manifest):
    text = manifest(fleet("llama.cpp"))
    container = container_of(text)
    (volume,) = pod_of(text)["volumes"]
    (mount,) = container["volumeMounts"]
    assert mount["mountPath"] == container["workingDir"]
    assert mount["name"] == volume["name"]
    assert "env" not in container
    assert f"{volume['persistentVolumeClaim']['claimName']} must hold llama3.1-8b.gguf" in text


@BOTH
def test_a_pod_is_ready_when_the_engine_says_so(manifest):
    container = container_of(manifest(fleet("sglang")))
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert container["ports"] == [{"name": "http", "containerPort": 30000}]


@BOTH
def test_other_services_set_no_variable_of_an_engine(manifest):
    """A Service called vllm would set VLLM_PORT to "tcp://..."."""
    assert pod_of(manifest(fleet()))["enableServiceLinks"] is False


@BOTH
def test_a_token_is_taken_where_there_is_one(manifest):
    (token,) = container_of(manifest(fleet()))["env"]
    assert token["name"] == "HF_TOKEN"
    assert token["valueFrom"]["secretKeyRef"]["optional"] is True


@BOTH
@pytest.mark.parametrize(
    ("card", "label"),
    [
        # as gpu-feature-discovery and AMD's node labeller write them
        ("h100", {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}),
        ("a100", {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}),
        ("mi300x", {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}),
    ],
)
def test_a_pod_goes_where_its_card_is(card, label, manifest):
    assert pod_of(manifest(fleet(card=card)))["nodeSelector"] == label


@BOTH
def test_a_card_without_a_known_label_is_remarked(manifest):
    text = manifest(fleet(card="mi355x"))
    assert "nodeSelector" not in pod_of(text)
    assert text.startswith("# No node label of MI355X is known: add a nodeSelector")


def test_a_service_finds_the_pods():
    deployment, service = documents(kvsim.deployment_manifest(fleet("sglang")))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (30000, "http")


def test_a_replacement_needs_no_device_of_its_own():
    (deployment, _) = documents(kvsim.deployment_manifest(fleet()))
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


@BOTH
def test_what_was_found_is_annotated(manifest):
    found = documents(manifest(fleet()))[0]["metadata"]["annotations"]
    assert found["kvsim/demand"] == "10 requests/s"
    assert found["kvsim/highest-rate-per-replica"] == "4 requests/s"
    assert found["kvsim/headroom"] == "20%"  # 12 for 10
    assert found["kvsim/cost-per-hour"] == "6.00 to 9.00 USD"  # three devices


# --- names and text --------------------------------------------------------------------------


@given(st.text())
def test_every_text_makes_a_name(text):
    label = dns_label(text)
    assert LABEL.fullmatch(label)
    assert len(label) <= 40  # "NAME-predictor-NAMESPACE" is a label too
    assert dns_label(label) == label


def test_long_names_that_begin_alike_differ():
    long = "a-model-of-a-name-that-nobody-would-type-twice"
    assert dns_label(long + "-v1") != dns_label(long + "-v2")


@given(name=st.text(min_size=1), found=st.dictionaries(st.just("note"), st.text()))
def test_what_is_written_is_what_is_read(name, found):
    """By YAML 1.1, which Kubernetes reads, and by 1.2; remarks end no line."""
    made = Fleet(
        name=dns_label(name),
        model=name,
        image="image:1e5",
        command=("vllm", "serve"),
        args=("1e5", "yes", "0x10"),
        port=8000,
        gpu_resource="nvidia.com/gpu",
        devices=2,
        replicas=1,
        environment={"A": "1"},
        found=found,
        remarks=(f"of {name}",),
    )
    text = kvsim.kserve_manifest(made)
    (read,) = documents(text)
    assert parse_yaml(text, "manifest") == read
    notes = {f"kvsim/{key}": value for key, value in found.items()}
    deployment_mode = {"serving.kserve.io/deploymentMode": "RawDeployment"}
    assert read["metadata"]["annotations"] == notes | deployment_mode
    (container,) = read["spec"]["predictor"]["containers"]
    assert container["args"] == ["1e5", "yes", "0x10"]
    assert container["env"][0] == {"name": "A", "value": "1"}


@EVERY
def test_either_yaml_reads_the_same(make):
    text = kvsim.deployment_manifest(make())
    assert [parse_yaml(part, "manifest") for part in text.split("\n---\n")] == documents(text)


@pytest.mark.parametrize(
    ("engine", "version", "card"),
    [
        ("vllm", "0.11.2", "mi300x"),  # vLLM published its first after that
        ("sglang", "0.5.18", "mi250x"),
        ("sglang", "0.4.6", "h100"),  # tags were of a CUDA version each
        ("tensorrt-llm", "1.2.0", "mi300x"),
        ("llama.cpp", "ik", "h100"),
        ("llama.cpp", "b4000", "h100"),  # of another owner
    ],
)
def test_an_unknown_image_is_asked_for_and_taken(engine, version, card):
    answer = option(card, launch_line(engine))
    with pytest.raises(UnsupportedError, match=r"no image of .* is known; give the image of yours"):
        kvsim.fleet_of(answer, engine, version)
    assert kvsim.fleet_of(answer, engine, version, image="me/mine:1").image == "me/mine:1"


# --- what is refused -------------------------------------------------------------------------


def test_a_replica_over_nodes_is_refused():
    answer = option(tensor_parallel_size=8, stages=2)
    with pytest.raises(UnsupportedError) as error:
        kvsim.fleet_of(answer)
    said = str(error.value)
    assert "16 H100-SXM5-80GB (TP 8, PP 2)" in said
    assert "8 at most" in said
    assert "LeaderWorkerSet" in said
    assert "\n" not in said


def test_a_node_has_as_many_devices_as_its_profile_says():
    """A compute tray of GB200 NVL72 has four."""
    assert kvsim.fleet_of(option("gb200", tensor_parallel_size=4)).devices == 4
    with pytest.raises(UnsupportedError, match="a node has 4 at most"):
        kvsim.fleet_of(option("gb200", tensor_parallel_size=8))


@pytest.mark.parametrize("card", ["m4-max", "tpu-v6e", "gaudi3"])
def test_devices_without_a_known_pod_are_refused(card):
    with pytest.raises(UnsupportedError, match="only with NVIDIA and AMD devices"):
        kvsim.fleet_of(option(card))


def test_a_library_is_no_server():
    with pytest.raises(UnsupportedError, match="transformers is a library"):
        kvsim.fleet_of(option(), "transformers")


@pytest.mark.parametrize("changes", [{"rate": None}, {"rate": None, "problem": "does not fit"}])
def test_no_answer_has_no_fleet(changes):
    with pytest.raises(InputError, match=changes.get("problem", "H100-SXM5-80GB carries nothing")):
        kvsim.fleet_of(option(**changes))


# --- others' checkers ------------------------------------------------------------------------


@EVERY
def test_kubernetes_takes_it(make):
    """By its API's schemas, unknown keys being errors; KServe's predictor is a pod's spec."""
    checker = pytest.importorskip("kubernetes_validate", reason=CHECKERS)
    predictor = pod_of(kvsim.kserve_manifest(make()))
    pod = {key: value for key, value in predictor.items() if not key.endswith("Replicas")}
    as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
    for document in (*documents(kvsim.deployment_manifest(make())), as_pod):
        checker.validate(document, checker.latest_version(), strict=True)


@EVERY
def test_kserve_takes_it(make):
    """Its own models know every key."""
    kserve = pytest.importorskip("kserve", reason=CHECKERS)
    (document,) = documents(kvsim.kserve_manifest(make()))
    predictor = document["spec"]["predictor"]
    for content, model in (
        (document, kserve.V1beta1InferenceService),
        (document["spec"], kserve.V1beta1InferenceServiceSpec),
        (predictor, kserve.V1beta1PredictorSpec),
    ):
        keys = {key: name for name, key in model.attribute_map.items()}
        assert content.keys() <= keys.keys()
        model(**{keys[key]: value for key, value in content.items()})
    assert document["apiVersion"] == kserve.constants.KSERVE_V1BETA1
    assert document["kind"] == kserve.constants.KSERVE_KIND_INFERENCESERVICE


def test_a_cost_has_its_currency_and_a_profile_of_ones_own_is_found(tmp_path):
    own = tmp_path / "mine.yaml"
    text = (data_folder("hardware_profiles") / "h100-sxm5-80gb.yaml").read_text("utf-8")
    text = text.replace("name: H100-SXM5-80GB", "name: Mine", 1)
    own.write_text(re.sub(r"^aliases: .*\n", "", text, flags=re.MULTILINE), "utf-8")
    answer = replace(option(), accelerator="Mine", profile=str(own))
    made = kvsim.fleet_of(answer, "vllm", ENGINES["vllm"], currency="EUR")
    assert made.found["cost-per-hour"] == "6.00 to 9.00 EUR"
    assert made.found["accelerator"] == "Mine"
