"""docs/run_yaml.md says what the models check."""

from rlpath_core.config.reference import PAGE, keys, meanings, page


def test_the_page_is_what_the_models_say():
    assert PAGE.read_text(encoding="utf-8") == page(), "stale: run python -m rlpath_core.config.reference"


def test_every_key_has_a_meaning():
    without = [path for path, (model, name, _) in keys().items() if not meanings(model).get(name)]
    assert not without


def test_every_key_of_the_interface_is_there():
    """The public names, to the letter."""
    common = "backend task run_dir model_in device backend_python backend_env backend_args model.manifest model.weights"
    data = "train val test indices indices_path"
    indices = "max_samples shuffle seed indices_path"
    train = """input_json epochs batch_size num_workers seed lr weight_decay optimizer amp accum_steps drop_last
        cycle_steps max_grad_norm save_every log_every progress_bar progress_mininterval freeze scheduler_step_unit
        energy_weight force_weight head_key early_stop_factor config_yml identifier"""
    wanted = set(common.split()) | {f"data.{key}" for key in data.split()} | {f"train.{key}" for key in train.split()}
    wanted |= {f"data.{split}_indices.{key}" for split in ("train", "val") for key in indices.split()}
    wanted |= {"eval.energy_only", "eval.amp"}
    assert wanted <= set(keys())
    assert keys()["train.head_key"][2].default == "omat_pbe"
