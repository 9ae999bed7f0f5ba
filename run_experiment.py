"""Trains, evaluates and draws one model on one data set.

    python run_experiment.py --model=vampprior
    python run_experiment.py --model=hvae --dataset=dynamic_mnist --data_dir=DIR --epochs=50
    python run_experiment.py --config=configs/paper/vampprior_dynamic_mnist.py --data_dir=DIR
    python run_experiment.py --model=vae --config.objective.num_importance=50
    python run_experiment.py --mode=evaluate --workdir=runs/vampprior-digits-seed0

A run that was stopped, in whatever way, goes on when the same command is typed again.
"""

import os
import sys

from absl import flags
from ml_collections import config_flags

from tfhvae import configuration, startup
from tfhvae.data import DATASETS, DataError
from tfhvae.errors import RunError

HERE = os.path.dirname(os.path.abspath(__file__))
MODES = ("train", "evaluate", "figures", "sample")

flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "train (then evaluate and draw), or one of the others on an existing --workdir",
)
flags.DEFINE_string(
    "model",
    None,
    f"one of: {', '.join(configuration.MODELS)} (default: {configuration.DEFAULT_MODEL})",
)
flags.DEFINE_string(
    "dataset", None, f"one of: {', '.join(DATASETS)} (default: the configuration's, digits)"
)
flags.DEFINE_string(
    "data_dir",
    None,
    "folder with a data set's original files, itself or in a sub-folder per family; without it sets are downloaded",
)
flags.DEFINE_string("workdir", None, "the run's folder (default: runs/MODEL-DATASET-seedSEED)")
flags.DEFINE_integer("seed", None, "of every random draw")
flags.DEFINE_integer("epochs", None, "passes over the training images")
flags.DEFINE_integer("batch_size", None, "images per update")
flags.DEFINE_integer("eval_samples", None, "importance samples of the test log-likelihood")
flags.DEFINE_integer("num_images", 64, "images that --mode=sample draws")
flags.DEFINE_string("device", "", "cpu, gpu or gpu:N (default: a GPU where there is one)")
flags.DEFINE_boolean("mixed_precision", None, "compute in bfloat16, keep weights in float32")
flags.DEFINE_boolean("jit_compile", None, "compile with XLA (default: for dense networks)")
flags.DEFINE_boolean("deterministic", False, "only operations with reproducible results")
flags.DEFINE_enum(
    "distribute",
    "none",
    ("none", "mirrored", "multi_worker"),
    "tf.distribute: all GPUs of this machine, or the cluster in TF_CONFIG",
)

_HELP_TAIL = """
--config=FILE takes a configuration (configs/*.py on the embedded data, configs/paper/*.py for
published numbers), and
--config.SECTION.FIELD=VALUE overrides any field of it:
"""


def main(argv):
    config, argv = configuration_of(argv)
    if any(argument in ("--help", "-h", "--helpfull") for argument in argv):
        print_help(config)
        return 0
    config_flags.DEFINE_config_dict("config", config)
    flags.FLAGS(argv)
    options = flags.FLAGS
    apply_shorthands(options.config, options)
    workdir = options.workdir or os.path.join(
        "runs", f"{config.model.name}-{config.dataset.name}-seed{config.seed}"
    )
    # Only now, so that --help and mistakes answer at once.
    startup.import_tensorflow()
    from tfhvae import experiments, hardware, reporting

    chosen = hardware.Hardware(
        options.device, options.jit_compile, options.deterministic, options.distribute
    )
    run = experiments.Run(config, workdir, options.data_dir, chosen)
    if options.mode == "train":
        summary = run.finished_summary
        if summary is not None:
            print(
                "This run is finished; nothing was trained. Another --workdir or --seed starts a new one."
            )
        else:
            if run.state.epoch:
                print(f"going on after epoch {run.state.epoch}")
            run.train()
            summary = run.evaluate()
            run.draw()
        reporting.print_summary(summary)
    elif options.mode == "evaluate":
        reporting.print_summary(run.evaluate())
    else:
        for path in run.draw() if options.mode == "figures" else run.sample(options.num_images):
            print(path)
    print(f"run folder: {workdir}")
    return 0


def configuration_of(argv):
    """The configuration that the command line begins from, and the arguments that are left.

    That is the file of --config; for another --mode than train the one in --workdir; else that of
    --model on the embedded data.
    """
    values, rest = {}, [argv[0]]
    arguments = iter(argv[1:])
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if (
            argument.startswith("-")
            and name in ("config", "model", "mode", "workdir")
            and not equals
        ):
            value = next(arguments, "")
            argument = f"--{name}={value}"
        if name in ("config", "model", "mode", "workdir"):
            values[name] = value
        if name != "config":
            rest.append(argument)
    if "config" in values:
        config = configuration.load(values["config"])
    elif values.get("mode", "train") != "train" and "workdir" in values:
        config = configuration.from_json(os.path.join(values["workdir"], "config.json"))
    else:
        model = values.get("model", configuration.DEFAULT_MODEL)
        configuration.check_name("model", model, configuration.MODELS)
        config = configuration.load(os.path.join(HERE, "configs", f"{model}.py"))
    if values.get("model", config.model.name) != config.model.name:
        raise RunError(
            f"--config is for the model {config.model.name!r}, --model says {values['model']!r}"
        )
    overrides = [a[len("--config.") :].partition("=")[0] for a in rest if a.startswith("--config.")]
    configuration.check_overrides(config, [name.partition("[")[0] for name in overrides])
    return config, rest


def apply_shorthands(config, options):
    """Flags such as --epochs are names for fields that people set often."""
    for flag, section, field in (
        ("dataset", "dataset", "name"),
        ("epochs", "training", "epochs"),
        ("batch_size", "training", "batch_size"),
        ("eval_samples", "evaluation", "num_samples"),
        ("mixed_precision", "training", "mixed_precision"),
    ):
        if options[flag].value is not None:
            config[section][field] = options[flag].value
    if options.seed is not None:
        config.seed = options.seed


def print_help(config):
    print(__doc__)
    print(flags.FLAGS.main_module_help())
    print(_HELP_TAIL)
    for name, value in configuration.flatten(config.to_dict()).items():
        print(f"  --config.{name}={value}")
    print("\nModels:")
    for name, entry in configuration.MODELS.items():
        print(f"  {name:16s}{entry.summary}")
    print("\nData sets:")
    for name, summary in DATASETS.items():
        print(f"  {name:18s}{summary}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv))
    except (RunError, DataError, flags.Error) as mistake:
        sys.exit(f"error: {str(mistake).strip().splitlines()[0]}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from the last checkpoint")
