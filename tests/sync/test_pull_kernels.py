"""Pulls of kernels: all their versions, and what upstream says about their publisher."""

from __future__ import annotations

import orjson
import pytest

from tests.conftest import Serve
from tests.filling import FILES, MODEL, Filling
from tests.hub import EVER, HubSimulator, refused

KERNEL = "kernels/org/relu"
BUILD = "build/torch-cpu"
TRUSTED = {"name": "org", "fullname": "The Org", "trustedKernelPublisher": True}


def build(version: int, **metadata: object) -> dict[str, bytes]:
    """The files of a kernel without compiled code."""
    body = orjson.dumps({"id": f"relu_{version}", "name": "relu", "version": version, **metadata})
    return {
        f"{BUILD}/__init__.py": f"VERSION = {version}\n".encode(),
        f"{BUILD}/metadata.json": body,
    }


@pytest.fixture
def commits(simulator: HubSimulator) -> dict[str, str]:
    """The commits of a kernel by branch; `vendor` is not a version."""
    simulator.organizations["org"] = {**TRUSTED, "orgs": [1], "details": "x" * 5000}
    repo = simulator.repo(KERNEL)
    return {
        "main": repo.commit(build(0)),
        "v1": repo.commit(build(1), "v1"),
        "v2": repo.commit(build(2), "v2"),
        "vendor": repo.commit(build(9), "vendor"),
    }


def test_all_versions_of_a_kernel_are_pulled(commits: dict[str, str], filling: Filling) -> None:
    filling.run("pull", KERNEL)
    assert filling.shown("v1", KERNEL) == build(1)
    assert filling.shown("v2", KERNEL) == build(2)
    with filling.source() as source:
        (repo,) = source.repos()
        assert dict(source.refs(repo)) == {
            "refs/heads/v1": commits["v1"],
            "refs/heads/v2": commits["v2"],
        }
    assert (filling.data / "hub" / "kernels--org--relu" / "refs" / "v1").is_file()


def test_the_type_of_a_repository_is_an_option(commits: dict[str, str], filling: Filling) -> None:
    filling.run("pull", "org/relu@main", "--repo-type", "kernel")
    assert filling.shown("main", KERNEL) == build(0)
    output = filling.run("pull", "org/relu", "--repo-type", "table", status=2).output
    assert "'kernel'" in output


def test_a_kernel_without_versions_is_pulled_at_main(
    simulator: HubSimulator, filling: Filling
) -> None:
    simulator.repo(KERNEL).commit(build(0))
    filling.run("pull", KERNEL)
    assert filling.shown("main", KERNEL) == build(0)


def test_a_kernel_that_upstream_does_not_have(simulator: HubSimulator, filling: Filling) -> None:
    output = filling.run("pull", KERNEL, status=1).output
    assert "kernels/org/relu is not on" in output
    filling.run("pull", KERNEL, "--dry-run", status=1)


def test_what_is_declared_is_not_pruned(commits: dict[str, str], filling: Filling) -> None:
    declared = '[[repo]]\nrepo_id = "org/relu"\nrepo_type = "kernel"\n'
    (filling.data.parent / "hubmirror.toml").write_text(declared)
    filling.run("pull", f"{KERNEL}@vendor")
    output = filling.run("pull", "--prune").output
    assert f"Removed {KERNEL}@{commits['vendor']}" in output
    assert filling.shown("v1", KERNEL) == build(1)
    assert filling.shown("v2", KERNEL) == build(2)


def test_the_publisher_is_as_upstream_says(
    commits: dict[str, str], simulator: HubSimulator, filling: Filling, serve: Serve
) -> None:
    filling.run("pull", KERNEL)
    overview = "/api/organizations/{}/overview"
    with filling.source() as source:
        client = serve(source)
        assert client.get(overview.format("Org")).json() == TRUSTED
        assert client.get(overview.format("other")).status_code == 404
    simulator.organizations["org"] = TRUSTED | {"trustedKernelPublisher": False}
    filling.run("pull", KERNEL)
    with filling.source() as source:
        answer = serve(source).get(overview.format("org")).json()
        assert answer["trustedKernelPublisher"] is False


def test_an_unknown_publisher_is_not_called_untrusted(
    simulator: HubSimulator, filling: Filling, serve: Serve
) -> None:
    """A kernel of a user has no organization."""
    simulator.repo(KERNEL).commit(build(1), "v1")
    filling.run("pull", KERNEL)
    with filling.source() as source:
        answer = serve(source).get("/api/organizations/org/overview")
    assert answer.status_code == 404
    assert "does not know what upstream says about 'org'" in answer.headers["x-error-message"]


def test_an_upstream_that_fails_does_not_make_a_publisher_unknown(
    commits: dict[str, str], simulator: HubSimulator, filling: Filling
) -> None:
    simulator.fail("/api/organizations/", refused(500), EVER)
    outcome = filling.pull(KERNEL)
    assert len(outcome.failed) == 2


def test_kernels_are_reported_and_pulled(
    commits: dict[str, str], simulator: HubSimulator, filling: Filling
) -> None:
    """The kernels that code loads, and those that these depend on."""
    simulator.repo(MODEL).commit({**FILES, "modeling.py": b"k = get_kernel('org/gelu')\n"})
    depends = build(1, **{"kernel-depends": [{"repo-id": "org/relu", "version": 1}]})
    simulator.repo("kernels/org/gelu").commit(depends, "v1")
    output = filling.run("pull", MODEL).output
    assert (
        "A pulled repository also uses kernels/org/gelu (a kernel that its code loads). "
        "Pull it with --with-needs." in output
    )
    output = filling.run("pull", MODEL, "--with-needs").output
    assert "also needs kernels/org/relu (a kernel that it depends on) to start" in output
    assert filling.shown("v1", "kernels/org/gelu") == depends
    assert filling.shown("v2", KERNEL) == build(2)
