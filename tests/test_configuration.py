"""Configurations of the papers, and what a wrong name or variant is answered."""

import json
import pathlib
import re
import shlex

import pytest

import run_experiment
from tfhvae import configuration, data
from tfhvae.errors import RunError

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEEP_CONFIGS = sorted((ROOT / "configs" / "paper").glob("deep_*.py"))
# Of `run_experiment.py`; the potential has a command of its own.
RESULTS = sorted(p.with_name("summary.json") for p in (ROOT / "results").glob("*/config.json"))
VARIANTS = [f"{name}-{layers}" for name in configuration.DEEP_VARIANTS for layers in range(1, 6)]


def test_deep_configurations_and_variants_are_all_there():
    assert [path.stem for path in DEEP_CONFIGS] == ["deep_mnist", "deep_norb", "deep_omniglot"]
    assert len(VARIANTS) == 25


def test_configurations_share_no_field():
    for model, field, value in (("vae", "logit_limit", 3.0), ("adgm", "num_classes", 3)):
        configuration.base_config(model, "digits").model[field] = value
        assert configuration.base_config(model, "digits").model[field] is None


@pytest.mark.parametrize("path", DEEP_CONFIGS, ids=lambda path: path.stem)
def test_every_variant_of_the_deep_models_is_valid(path):
    default = configuration.load(str(path))
    for variant in VARIANTS:
        config = configuration.load(f"{path}:{variant}")
        configuration.check(config)
        name, _, layers = variant.rpartition("-")
        model, batch_normalization, has_warmup = configuration.DEEP_VARIANTS[name]
        assert config.model.name == model
        assert config.model.batch_normalization == batch_normalization
        assert config.model.latent_dims == (64, 32, 16, 8, 4)[: int(layers)]
        assert config.model.hidden_units == (512, 256, 128, 64, 32)[: int(layers)]
        assert (config.objective.warmup_epochs > 0) == has_warmup
        assert config.objective.warmup_start == 0.0
        assert (config.published.log_likelihood is None) == (config.published.source == "")
        if variant == "ladder_vae-5":
            assert config.to_dict() == default.to_dict()


def test_published_numbers_of_the_tables():
    """Sønderby et al. 2016a and b, table 3 and table 2, one cell of each column."""
    published = {
        "deep_omniglot.py:vae-2": -110.58,
        "deep_omniglot.py:vae_bn-3": -106.09,
        "deep_omniglot.py:vae_bn_wu-4": -102.66,
        "deep_omniglot.py:ladder_vae-5": -102.11,
        "deep_omniglot.py:prob_ladder-3": -101.26,
        "deep_omniglot.py:prob_ladder-1": None,
        "deep_norb.py:vae-1": 2630.8,
        "deep_norb.py:vae_bn-2": 3140.1,
        "deep_norb.py:vae_bn_wu-3": 3346.7,
        "deep_norb.py:ladder_vae-4": 3449.0,
        "deep_norb.py:prob_ladder-5": 3430.3,
        "deep_omniglot.py:vae-1-2016a": -114.45,
        "deep_omniglot.py:vae_bn-4-2016a": -107.66,
        "deep_omniglot.py:vae_bn_wu-3-2016a": -101.60,
        "deep_norb.py:vae-2-2016b": 2792.0,
        "deep_norb.py:vae_bn-3-2016b": 3235.0,
        "deep_norb.py:vae_bn_wu-5-2016b": 3422.0,
        "deep_mnist.py:ladder_vae-5": -82.12,
        "deep_mnist.py:ladder_vae-4": None,
        "deep_mnist.py:ladder_vae-5-MC1-IW10": -81.74,
        "deep_mnist.py:vae_bn_wu-5-MC10-IW1": -81.84,
        "deep_mnist.py:prob_ladder-5-MC10-IW10": -81.20,
    }
    folder = ROOT / "configs" / "paper"
    for name, value in published.items():
        assert configuration.load(f"{folder}/{name}").published.log_likelihood == value, name


@pytest.mark.parametrize(
    ("name", "paper", "differs"), [("deep_omniglot", "2016a", False), ("deep_norb", "2016b", True)]
)
def test_a_number_of_the_other_paper_has_its_settings(name, paper, differs):
    path = ROOT / "configs" / "paper" / f"{name}.py"
    usual, other = (configuration.load(f"{path}:vae_bn_wu-3{end}") for end in ("", f"-{paper}"))
    assert other.published.source == f"Sønderby et al. {paper}" != usual.published.source
    assert other.model.to_dict() == usual.model.to_dict()
    settings = [
        (c.training.epochs, c.objective.warmup_epochs, c.optimizer.learning_rate)
        for c in (usual, other)
    ]
    assert (settings[0] != settings[1]) == differs
    assert settings[1] == ((2000, 200, 1e-3) if differs else (1500, 200, 1e-3))


def test_a_second_stage_goes_on_from_the_first():
    path = ROOT / "configs" / "paper" / "deep_mnist.py"
    first, second = (
        configuration.load(f"{path}:vae_bn_wu-5{samples}") for samples in ("", "-MC10-IW1")
    )
    assert second.model.to_dict() == first.model.to_dict()
    assert second.dataset.to_dict() == first.dataset.to_dict()
    folder = run_experiment.default_workdir(["x", f"--config={path}:vae_bn_wu-5"], first, first)
    assert second.training.initial_run == folder
    assert (second.objective.num_samples, second.objective.num_importance) == (10, 1)
    assert (first.objective.warmup_epochs, second.objective.warmup_epochs) == (200, 0)
    optimizer = second.optimizer
    assert (optimizer.schedule, optimizer.decay_factor, optimizer.decay_epochs) == (
        "step",
        0.75,
        200,
    )


def test_networks_of_burda():
    """Burda et al. 2016, section 5 and table 1: 50 latents, or 100 and 50; 200 or 100 tanh units."""
    path = ROOT / "configs" / "paper" / "iwae.py"
    one, two = (configuration.load(f"{path}:{v}") for v in ("mnist-1-vae", "omniglot-2-iwae"))
    assert (one.model.name, one.model.latent_dim, one.model.hidden_units) == ("vae", 50, (200, 200))
    assert (two.model.name, two.model.latent_dims, two.model.hidden_units) == (
        "deep_vae", (100, 50), (200, 100)
    )  # fmt: skip
    assert [c.objective.num_importance for c in (one, two)] == [1, 50]
    assert [c.published.log_likelihood for c in (one, two)] == [-86.76, -103.38]
    with pytest.raises(RunError, match="mnist-1-vae, mnist-1-iwae"):
        configuration.load(f"{path}:mnist-3-vae")


@pytest.mark.parametrize(
    "variant", ["ladder_vae", "ladder_vae-0", "ladder_vae-6", "vae_wu-2", "-3", "vae-2-2016a"]
)
def test_another_variant_is_answered_with_the_list(variant):
    with pytest.raises(RunError) as error:
        configuration.load(f"{DEEP_CONFIGS[0]}:{variant}")
    assert ", ".join(VARIANTS) in str(error.value) and repr(variant) in str(error.value)


def test_a_file_without_variants_takes_none():
    path = ROOT / "configs" / "paper" / "vae_static_mnist.py"
    configuration.load(str(path))
    with pytest.raises(RunError, match="vae_static_mnist.py has no variants. Received: 'large'"):
        configuration.load(f"{path}:large")
    with pytest.raises(RunError, match="there is no configuration"):
        configuration.load(f"{path}x:large")


@pytest.mark.parametrize(
    "lines, message",
    [
        ("config.optimizer.learning_rat = 1.0", r"line 5: AttributeError: .*no.*learning_rat"),
        ('config.training.epochs = "many"', r"line 5: TypeError: .*epochs"),
        ("return config.model.nothing", r"line 5: AttributeError: .*nothing"),
        ("return {'model': 1}", r"Received: dict without dataset, evaluation"),
        ("return type(config)({'model': {}})", r"Received: ConfigDict without dataset, "),
        ("import no_such_module", r"line 5: ModuleNotFoundError"),
    ],
)
def test_a_mistake_in_a_file_of_ones_own_is_told_in_a_line(tmp_path, lines, message):
    path = tmp_path / "mine.py"
    path.write_text(
        "from tfhvae.configuration import base_config\n\n"
        "def get_config():\n"
        '    config = base_config("vae", "digits")\n'
        f"    {lines}\n"
        "    return config\n"
    )
    with pytest.raises(RunError, match=message) as error:
        configuration.load(str(path))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    "field, value",
    [
        ("optimizer.decay_factor", 0.0),
        ("optimizer.decay_epochs", 0),
        ("optimizer.learning_rate", float("inf")),
        ("objective.free_bits", float("nan")),
        ("objective.warmup_start", -0.1),
        ("labels.weight", float("inf")),
    ],
)
def test_a_number_that_no_run_could_use_is_refused(field, value):
    config = configuration.base_config("adgm", "digits")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(RunError, match=f"expected .*{field}"):
        configuration.check(config)


def test_two_experiments_are_told_apart_by_their_fields():
    base = configuration.base_config("vae", "digits")
    other = configuration.base_config("vae", "digits")
    other.training.epochs, other.evaluation.num_samples = 7, 3
    assert configuration.changed_fields(other, base) == {}
    other.model.hidden_units = (10,)
    other.optimizer.learning_rate = 0.1
    assert configuration.changed_fields(other, base) == {
        "model.hidden_units": (10,),
        "optimizer.learning_rate": 0.1,
    }


def understood(command):
    """The configuration of a command line that begins with `python run_experiment.py`."""
    config, left = run_experiment.configuration_of(shlex.split(command)[1:])
    run_experiment.parse(left, config)
    configuration.check(config)
    return config


WITHOUT_VALIDATION = ("60k_10k", "24k_24k", "73k_26k", "604k_26k", "files")  # splits


def has_validation(config):
    """Whether the data set of a configuration has a validation part."""
    name, split = config.dataset.name, config.dataset.split
    split = split or data.OPTIONS[name].get("split", ("",))[0]
    return name != "half_moons" and split not in WITHOUT_VALIDATION


@pytest.mark.parametrize("summary", RESULTS, ids=lambda path: path.parent.name)
def test_the_command_beside_a_result_makes_its_configuration(summary, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = json.loads(summary.read_text())["command"]
    ours = understood(command.replace("--initial_run=runs/", "--initial_run=results/"))
    theirs = configuration.from_json(str(summary.parent / "config.json"))
    ours, theirs = (
        configuration.flatten(configuration.comparable(json.loads(configuration.to_json(config))))
        for config in (ours, theirs)
    )
    assert configuration.differences(ours, theirs) == []


def test_commands_of_the_documentation_are_understood(monkeypatch):
    """But those that take their configuration from the folder of a run, and the one whose model the
    reader is about to write."""
    monkeypatch.chdir(ROOT)
    texts = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.py")]
    commands = []
    for path in texts:
        text = path.read_text().replace("\\\n", " ")
        commands += re.findall(r"python run_experiment\.py[^\n`#|]*", text)
    elsewhere = ("--mode=", "--initial_run=", "--help", "two_block_vae")
    commands = [c for c in commands if not any(word in c for word in elsewhere)]
    assert len(commands) > 100
    for command in commands:
        config = understood(command)
        assert has_validation(config) or not config.training.patience, command


def test_a_limit_that_normalisation_undoes_is_refused():
    config = configuration.base_config("vae", "digits")
    config.optimizer.normalize_gradients = True
    configuration.check(config)
    config.optimizer.global_clipnorm = 1.0
    with pytest.raises(RunError, match="at most one of optimizer.global_clipnorm"):
        configuration.check(config)


def test_the_first_stage_has_a_learning_rate_of_its_own():
    config = configuration.load(str(ROOT / "configs" / "m1_m2.py"))
    config.optimizer.learning_rate = 3e-3
    assert configuration.first_stage(config).optimizer.learning_rate == 3e-3
    config.training.m1_learning_rate = 1e-3
    assert configuration.first_stage(config).optimizer.learning_rate == 1e-3
    config.training.m1_learning_rate = -1.0
    with pytest.raises(RunError, match="positive training.m1_learning_rate"):
        configuration.check(config)
