"""What counts as code, and that nothing of it runs before it is allowed."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from headrace import runtimes
from headrace.errors import CodeNotAllowed, PackageError
from headrace.inprocess import load
from headrace.registry.init_package import init_package
from headrace.registry.package import read_package
from headrace.runtimes import pt2_audit
from headrace.storage.digests import sha256_file
from tests.conformance.formats import models

JSON = "models/model.json"


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def rewrite(path: Path, change) -> None:
    """`change` takes and returns the members of the archive, by name below its root."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
        members = {n.removeprefix(f"{root}/"): archive.read(n) for n in archive.namelist()}
    changed = change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (changed or members).items():
            archive.writestr(f"{root}/{name}", data)


def rewrite_json(path: Path, change, member: str = JSON) -> None:
    def edit(members):
        form = json.loads(members[member])
        change(form)
        members[member] = json.dumps(form).encode()

    rewrite(path, edit)


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def plant_sample_inputs(path, mark):
    rewrite(path, lambda m: m.update({"data/sample_inputs/model.pt": pickled((Trap(mark),))}))


def plant_legacy_weights(path, mark):
    rewrite(path, lambda m: m.update({"data/weights/model.pt": pickled({"w": Trap(mark)})}))


def plant_legacy_constants(path, mark):
    rewrite(path, lambda m: m.update({"data/constants/model.pt": pickled({"c": Trap(mark)})}))


def plant_pickled_weight(path, mark):
    rewrite(path, lambda m: m.update({"data/weights/weight_0": pickled(Trap(mark))}))
    rewrite_json(
        path,
        lambda form: next(iter(form["config"].values())).update(use_pickle=True),
        "data/weights/model_weights_config.json",
    )


def plant_pickled_constant(path, mark):
    rewrite(path, lambda m: m.update({"data/constants/tensor_0": pickled(Trap(mark))}))
    rewrite_json(
        path,
        lambda form: next(iter(form["config"].values())).update(use_pickle=True),
        "data/constants/model_constants_config.json",
    )


def plant_opaque_object(path, mark):
    rewrite(path, lambda m: m.update({"data/constants/opaque_obj_0": pickle.dumps(Trap(mark))}))
    rewrite_json(
        path,
        lambda form: next(iter(form["config"].values())).update(
            path_name="opaque_obj_0", use_pickle=True
        ),
        "data/constants/model_constants_config.json",
    )


def plant_expression(path, mark):
    source = f"__import__('os').mkdir('{mark}') or 1"

    def change(form):
        size = form["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]
        size["as_expr"]["expr_str"] = source

    rewrite_json(path, change)


def plant_guard(path, mark):
    rewrite_json(
        path, lambda form: form["guards_code"].append(f"__import__('os').mkdir('{mark}') is None")
    )


def plant_guard_in_a_constant_input(path, mark):
    """Strings that a graph takes as input are pasted into a guard between quotes."""

    def change(form):
        spec = {"name": "mode", "value": {"as_string": f"' or __import__('os').mkdir('{mark}')#"}}
        form["graph_module"]["signature"]["input_specs"].append({"constant_input": spec})

    rewrite_json(path, change)


def plant_target(path, mark):
    def change(form):
        node = form["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.serialization.os.mkdir"
        node["inputs"] = [{"name": "", "arg": {"as_string": str(mark)}, "kind": 1}]

    rewrite_json(path, change)


def plant_method_of_an_operator(path, mark):
    def change(form):
        node = form["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.ops.aten.linear.__init_subclass__"

    rewrite_json(path, change)


def plant_library(path, mark):
    def change(form):
        node = form["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.ops.load_library"
        node["inputs"] = [{"name": "", "arg": {"as_string": str(mark)}, "kind": 1}]

    rewrite_json(path, change)


def plant_file_operator(path, mark):
    def change(form):
        form["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"

    rewrite_json(path, change)


def plant_name(path, mark):
    """Names of nodes are pasted into the source of forward()."""

    def change(form):
        node = form["graph_module"]["graph"]["nodes"][0]
        node["name"] = f"linear = __import__('os').mkdir('{mark}')#"

    rewrite_json(path, change)


def plant_dotted_name(path, mark):
    def change(form):
        form["graph_module"]["graph"]["nodes"][0]["name"] = "torch.load"

    rewrite_json(path, change)


def plant_argument_name(path, mark):
    def change(form):
        signature = form["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"] = ["x", f"mask=__import__('os').mkdir('{mark}')"]

    rewrite_json(path, change)


def plant_parameter_name(path, mark):
    """A name that is no identifier is pasted into getattr(…, "…")."""
    evil = f'linear.l", 0) or getattr(__import__("os"), "mkdir")("{mark}") or ("'

    def rename(form):
        text = json.dumps(form).replace('"linear.weight"', json.dumps(evil))
        form.clear()
        form.update(json.loads(text))

    rewrite_json(path, rename)
    rewrite_json(path, rename, "data/weights/model_weights_config.json")


def plant_key(path, mark):
    def change(form):
        values = form["graph_module"]["graph"]["tensor_values"]
        values[f"linear = __import__('os').mkdir('{mark}')#"] = values.pop("linear")

    rewrite_json(path, change)


def plant_treespec(path, mark):
    def change(form):
        signature = form["graph_module"]["module_call_graph"][0]["signature"]
        context = json.dumps(
            {
                "default_factory_module": "this_module_would_be_imported",
                "default_factory_name": "x",
                "dict_context": [],
            }
        )
        spec = [1, {"type": "collections.defaultdict", "context": context, "children_spec": []}]
        signature["out_spec"] = json.dumps(spec)

    rewrite_json(path, change)


def plant_custom_object(path, mark):
    def change(form):
        node = form["graph_module"]["graph"]["nodes"][0]
        node["inputs"][0]["arg"] = {"as_custom_obj": {"name": "o", "class_fqn": "C"}}

    rewrite_json(path, change)


def plant_shared_library(path, mark):
    rewrite(path, lambda m: m.update({"data/aotinductor/model/model.so": b"\x7fELF"}))


def plant_second_model(path, mark):
    rewrite(path, lambda m: m.update({"models/other.json": m[JSON]}))


def plant_older_form(path, mark):
    """torch.export.load falls back to other members when the first way fails."""
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr("version", "8.20")
        archive.writestr("serialized_exported_program.json", archive.read(f"{root}/{JSON}"))
        archive.writestr("serialized_state_dict.pt", b"")
        archive.writestr("serialized_constants.pt", b"")
        archive.writestr("serialized_example_inputs.pt", pickled((Trap(mark),)))


def plant_twin(path, mark):
    """One reader takes the first of two members with one name, another the last."""
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/extra/a", b"first")
        archive.writestr(f"{root}/extra/A", b"second")


def plant_key_of_sample_inputs(path, mark):
    evil = {"x\"); __import__('os').mkdir('m'); (\"": torch.ones(1)}
    rewrite(path, lambda m: m.update({"data/sample_inputs/model.pt": pickled(((evil,), {}))}))


PLANTS = [value for name, value in list(globals().items()) if name.startswith("plant_")]


def test_an_honest_archive_is_data(pool_package) -> None:
    assert read_package(pool_package).code == {}
    with load(pool_package, allow_code=()) as model:
        assert model(models.record(2))["total"].shape == (3,)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__.removeprefix("plant_"))
def test_planted_code_never_runs_and_is_refused(plant, pool_package, tmp_path) -> None:
    mark = tmp_path / "it-ran"
    archive = pool_package / "pool.pt2"
    plant(archive, mark)
    digest = sha256_file(archive)

    assert pt2_audit.why_code(archive) is not None
    package = read_package(pool_package)
    assert package.code == {"pool.pt2": digest}
    with pytest.raises(CodeNotAllowed, match=digest) as caught:
        runtimes.load(package, "cpu", frozenset({"0" * 64}))
    assert caught.value.digest == digest
    with pytest.raises(CodeNotAllowed, match=digest):
        load(pool_package, allow_code=[])
    with pytest.raises(CodeNotAllowed, match=digest):
        init_package(archive, models.example(), tmp_path / "new")
    assert not mark.exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "plant",
    [
        plant_sample_inputs,
        plant_legacy_weights,
        plant_legacy_constants,
        plant_pickled_weight,
        plant_pickled_constant,
        plant_opaque_object,
        plant_expression,
        plant_guard,
        plant_older_form,
        plant_parameter_name,
    ],
)
def test_the_plants_are_real(plant, pool_pt2, tmp_path) -> None:
    """torch itself runs them; where it stops doing so, the audit may be relaxed."""
    mark = tmp_path / "it-ran"
    archive = tmp_path / "pool.pt2"
    shutil.copyfile(pool_pt2, archive)
    plant(archive, mark)
    try:
        module = torch.export.load(archive).module()
        module(*(torch.from_numpy(array) for array in models.example().values()))
    except Exception:  # noqa: BLE001 - most traps spoil what they hide in
        pass
    assert mark.exists()


@pytest.mark.parametrize(
    "data", [b"", b"no zip", b"PK\x05\x06" + b"\0" * 18], ids=["empty", "text", "empty zip"]
)
def test_what_is_no_archive_is_named(data, tmp_path) -> None:
    path = tmp_path / "m.pt2"
    path.write_bytes(data)
    with pytest.raises(PackageError, match=r"m\.pt2: not a torch.export archive"):
        pt2_audit.why_code(path)


def test_a_handler_that_changed_since_it_was_allowed_does_not_run(tmp_path) -> None:
    handler = tmp_path / "handler.py"
    handler.write_text("class Handler:\n    def forward(self, records): return records\n")
    package = init_package(
        None, {"n": [1, 2]}, tmp_path / "echo", handler=handler, allow_code=True,
    )  # fmt: skip
    mark = tmp_path / "it-ran"
    (package.root / "handler.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    with pytest.raises(CodeNotAllowed, match="changed"):
        runtimes.load(package, "cpu", frozenset(package.code.values()))
    assert not mark.exists()


def test_what_a_handler_reads_counts_with_it(tmp_path) -> None:
    handler = tmp_path / "handler.py"
    handler.write_text("class Handler:\n    def forward(self, records): return records\n")
    (tmp_path / "model.bin").write_bytes(b"could be a pickle")
    (tmp_path / "vocab.txt").write_text("a b c")
    package = init_package(
        tmp_path / "model.bin", {"n": [1, 2]}, tmp_path / "echo", handler=handler,
        files=[tmp_path / "vocab.txt"], allow_code=True,
    )  # fmt: skip
    assert set(package.code) == {"handler.py", "model.bin", "vocab.txt"}
    with pytest.raises(CodeNotAllowed):
        load(package.root, allow_code=[package.code["handler.py"]])
