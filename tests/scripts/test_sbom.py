"""Test that the bill of materials of an image lists what its locks install, with hashes, in a valid form."""

from __future__ import annotations

import json

import pytest

from scripts.sbom import IMAGES, ROOT, bill_of_materials, requirements_of
from tests.deploy.dockerfile import Dockerfile
from tests.deploy.test_dockerfile import locks_of

DOCKERFILE = Dockerfile.read(ROOT / "Dockerfile")


@pytest.mark.parametrize("image", IMAGES)
def test_bill_covers_the_locks_of_the_image(image: str) -> None:
    locks = {f"{lock}.lock" for lock in IMAGES[image]}
    installed = set(locks_of(DOCKERFILE, image)) - {"uv.lock"}  # uv is not part of the image
    assert locks == installed - {"torch-cpu.lock"} or locks == installed - {"torch-cuda.lock"}


@pytest.mark.parametrize("image", IMAGES)
def test_each_package_is_listed_once(image: str) -> None:
    names = [line.partition("==")[0] for line in requirements_of(image)]
    assert sorted(set(names)) == sorted(names)
    assert ("torch" in names) == image.startswith("processor")


def test_bill_has_every_package_with_its_hashes() -> None:
    bill = json.loads(bill_of_materials("api"))  # validated by the command that writes it
    assert bill["metadata"]["component"]["name"] == "uvr-api"
    listed = {f"{one['name']}=={one['version']}" for one in bill["components"]}
    assert listed == {line.partition(" ")[0] for line in requirements_of("api")}
    for component in bill["components"]:
        assert all(one["hashes"] for one in component["externalReferences"]), component["name"]
