"""The manifests are what Kubernetes takes; the pages name what there is."""

import pathlib
import re

import kubernetes_validate
import pytest
import yaml

from errseg_jax import processes
from errseg_jax.cli import parse
from errseg_jax.cli_flags import OWN_FLAGS
from errseg_jax.config_flags import load
from errseg_jax.planning.program import per_device
from errseg_jax.train.stages import plan

ROOT = pathlib.Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "launch" / "k8s").glob("*.yaml"))
JOBSET = {  # fields of jobset.x-k8s.io/v1alpha2
  "": {"apiVersion", "kind", "metadata", "spec"},
  "spec": {"replicatedJobs", "network", "failurePolicy", "successPolicy", "suspend", "managedBy"},
  "network": {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"},
  "failurePolicy": {"maxRestarts", "rules", "restartStrategy"},
  "rule": {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"},
  "job": {"name", "replicas", "template", "dependsOn"},
}
JOBSET_RULE = r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"


@pytest.fixture(params=MANIFESTS, ids=lambda path: path.stem)
def jobset(request):
  return yaml.safe_load(request.param.read_text())


def test_fields_of_the_jobset(jobset):
  assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  spec = jobset["spec"]
  assert jobset.keys() <= JOBSET[""]
  assert spec.keys() <= JOBSET["spec"]
  assert spec.get("network", {}).keys() <= JOBSET["network"]
  assert spec["failurePolicy"].keys() <= JOBSET["failurePolicy"]
  for rule in spec["failurePolicy"]["rules"]:
    assert rule.keys() <= JOBSET["rule"]
    assert re.fullmatch(JOBSET_RULE, rule["name"])  # a webhook of JobSet refuses others
    assert rule["action"] in ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")
  assert "kueue.x-k8s.io/queue-name" in jobset["metadata"]["labels"]
  for job in spec["replicatedJobs"]:
    assert job.keys() <= JOBSET["job"]


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_jobs_fit_the_schema(jobset, version):
  for job in jobset["spec"]["replicatedJobs"]:
    whole = {
      "apiVersion": "batch/v1",
      "kind": "Job",
      "metadata": {"name": "job"},
      "spec": job["template"]["spec"],
    }
    kubernetes_validate.validate(whole, version, strict=True)


def test_a_wrong_field_does_not_fit(jobset):
  job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
  job["template"]["spec"]["containers"][0]["resource"] = {}
  whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": job}
  with pytest.raises(kubernetes_validate.ValidationError):
    kubernetes_validate.validate(whole, "1.30", strict=True)


def test_pods_have_the_variables_that_the_processes_read(jobset):
  spec = jobset["spec"]
  for job in spec["replicatedJobs"]:
    own = job["template"]["spec"]
    (container,) = own["template"]["spec"]["containers"]
    assert own["parallelism"] == own["completions"]
    names = {entry["name"]: entry for entry in container.get("env", [])}
    if "google.com/tpu" in container["resources"]["limits"]:
      assert not names  # GKE sets TPU_WORKER_HOSTNAMES
      continue
    assert names.keys() == {processes.ADDRESS, processes.COUNT, processes.INDEX}
    assert names[processes.COUNT]["value"] == str(own["completions"])
    host, port = names[processes.ADDRESS]["value"].split(":")
    assert host == f"{jobset['metadata']['name']}-{job['name']}-0-0.{spec['network']['subdomain']}"
    assert [entry["containerPort"] for entry in container["ports"]] == [int(port)]


def test_commands_are_ours(jobset):
  for job in jobset["spec"]["replicatedJobs"]:
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    name, *flags = container["args"]
    args = parse(name, flags)
    config = load(str(ROOT / args.config), args.overrides)
    pods = job["replicas"] * job["template"]["spec"]["completions"]
    limits = container["resources"]["limits"]
    per_device(
      config, pods * sum(limits[kind] for kind in ("nvidia.com/gpu", "google.com/tpu") if kind in limits)
    )
    assert plan(config)  # a network to train, or one that is given


def test_the_user_of_the_pods_may_write_and_reach_devices(jobset):
  for job in jobset["spec"]["replicatedJobs"]:
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    user = pod["securityContext"]
    # The image's own user neither opens a TPU's devices nor writes to a volume that is root's.
    expected = {"runAsUser": 0}
    if "google.com/tpu" not in container["resources"]["limits"]:
      expected = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}
    assert user == expected


def test_the_page_names_every_file_and_status():
  text = (ROOT / "launch" / "README.md").read_text()
  linked = set(re.findall(r"\]\(([^)#:]+)\)", text))
  assert all((ROOT / "launch" / name).exists() for name in linked)
  files = {str(path.relative_to(ROOT / "launch")) for path in (ROOT / "launch").rglob("*") if path.is_file()}
  assert files - {"README.md"} <= linked
  assert f"| {processes.LOST}, 134 |" in text
  assert processes.TIMEOUT in text
  assert [name for name in OWN_FLAGS if "--distributed" in OWN_FLAGS[name] and f"`{name}`" not in text] == []
