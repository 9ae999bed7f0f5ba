"""Trains, evaluates and draws one model on one data set.

    python run_experiment.py --model=vampprior
    python run_experiment.py --model=hvae --dataset=dynamic_mnist --data_dir=DIR --epochs=50
    python run_experiment.py --config=configs/paper/vampprior_dynamic_mnist.py --data_dir=DIR
    python run_experiment.py --model=vae --config.objective.num_importance=50
    python run_experiment.py --mode=evaluate --workdir=runs/vampprior-digits-seed0
    python run_experiment.py --initial_run=runs/vampprior-digits-seed0 --epochs=100

A run that was stopped, in whatever way, goes on when the same command is typed again.
"""

import copy
import hashlib
import os
import re
import shlex
import sys
import textwrap

from absl import flags
from ml_collections import config_flags

from tfhvae import configuration, startup
from tfhvae.data import DATASETS, DataError
from tfhvae.errors import RunError

HERE = os.path.dirname(os.path.abspath(__file__))
MODES = ("train", "evaluate", "figures", "sample")
DISTRIBUTIONS = ("none", "mirrored", "multi_worker")

FLAGS = (
    ("model", str, None, f"one of: {', '.join(configuration.MODELS)} (default: vampprior)"),
    ("dataset", str, None, f"one of: {', '.join(DATASETS)} (default: digits)"),
    (
        "data_dir",
        str,
        None,
        "folder with a data set's original files, itself or in a sub-folder per family; "
        "without it, sets are downloaded",
    ),
    ("config", str, None, "a configuration: configs/*.py, configs/paper/*.py"),
    (
        "workdir",
        str,
        None,
        "the run's folder (default: runs/MODEL-DATASET-seedSEED, of a --config "
        "runs/FILE-VARIANT-seedSEED, of an --initial_run its name and -finetuned; then the fields "
        "that the command line changes)",
    ),
    (
        "initial_run",
        str,
        None,
        "folder of a finished run to start from: its weights, and its configuration unless "
        "--config or --model names one",
    ),
    ("mode", MODES, "train", "train, evaluate and draw; or do one thing on an existing --workdir"),
    ("seed", int, None, "of every random draw"),
    ("epochs", int, None, "passes over the training images"),
    ("batch_size", int, None, "images per update"),
    ("eval_samples", int, None, "importance samples of the test log-likelihood"),
    ("num_labels", int, None, "labelled images of a semi-supervised model, balanced over classes"),
    ("label_seed", int, None, "which images are labelled"),
    ("num_images", int, 64, "images that --mode=sample draws"),
    ("device", str, "", "cpu, gpu or gpu:N (default: a GPU where there is one)"),
    ("mixed_precision", bool, None, "compute in bfloat16, keep weights in float32"),
    ("jit_compile", bool, None, "compile with XLA (default: for dense networks)"),
    ("deterministic", bool, False, "only operations with reproducible results"),
    (
        "distribute",
        DISTRIBUTIONS,
        "none",
        "tf.distribute: all GPUs of this machine, or the cluster in TF_CONFIG",
    ),
)
SHORTHANDS = {
    "dataset": "dataset.name",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "eval_samples": "evaluation.num_samples",
    "num_labels": "labels.num_labels",
    "label_seed": "labels.seed",
    "mixed_precision": "training.mixed_precision",
    "seed": "seed",
    "initial_run": "training.initial_run",
}


def main(argv):
    """Does what the command line says; `argv[0]` is the program.

    Raises:
      RunError, DataError: one line for the person who typed it.
    """
    typed = argv
    config, argv = configuration_of(argv)
    base = copy.deepcopy(config)
    if any(argument in ("--help", "-h", "--helpfull") for argument in argv):
        print(help_text(config))
        return
    options = parse(argv, config)
    workdir = os.path.expanduser(options.workdir or default_workdir(typed, config, base))
    # Only now, so that --help and mistakes answer at once.
    startup.import_tensorflow()
    from tfhvae import experiments, hardware, reporting

    chosen = hardware.Hardware(
        options.device, options.jit_compile, options.deterministic, options.distribute
    )
    run = experiments.Run(config, workdir, options.data_dir, chosen, repeat(typed))
    if options.mode != "train":
        run.require_checkpoint()
    if options.mode == "train":
        summary = run.finished_summary
        if summary is not None:
            print("This run is finished; another --workdir or --seed starts a new one.")
            if not run.has_figures:
                run.draw()
        else:
            if run.state.epoch:
                print(f"going on after epoch {run.state.epoch} of {config.training.epochs}")
            elif run.state.initial_epochs:
                print(
                    f"starting from {config.training.initial_run}, "
                    f"trained for {run.state.initial_epochs} epochs"
                )
            run.train()
            summary = run.evaluate()
            run.draw()
        reporting.print_summary(summary)
    elif options.mode == "evaluate":
        reporting.print_summary(run.evaluate())
    else:
        for path in run.draw() if options.mode == "figures" else run.sample(options.num_images):
            print(path)
        summary = run.finished_summary if options.mode == "figures" else None
        if summary is not None:
            reporting.print_summary(summary)
    print(f"run folder: {workdir}")


def default_workdir(argv, config, base):
    """The folder of a run whose command line `argv` names none: another one for every experiment,
    and the same one when it is longer or evaluated otherwise. `base` is the configuration before
    the command line changed it."""
    changed = configuration.changed_fields(config, base)
    typed = _named(argv)[0]
    if "config" in typed:
        path, _, variant = typed["config"].partition(":")
        name = os.path.splitext(os.path.basename(path))[0] + (f"-{variant}" if variant else "")
    else:
        name = f"{config.model.name}-{changed.pop('dataset.name', config.dataset.name)}"
    name += f"-seed{changed.pop('seed', config.seed)}"
    if config.training.initial_run:
        is_of_initial_run = not typed.keys() & {"config", "model"}
        before = configuration.run_name(config.training.initial_run)
        name = f"{before if is_of_initial_run else name}-finetuned"
    for field, value in changed.items():
        value = "-".join(map(str, value)) if isinstance(value, (tuple, list)) else value
        name += "-" + re.sub(r"[^\w.+=-]+", "_", f"{field}={value}")
    if len(name) > 200:  # of the 255 letters that a file system allows
        name = f"{name[:180]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return os.path.join("runs", name)


def configuration_of(argv):
    """The configuration that the command line begins from, and the arguments that are left.

    That is the file of --config; for another --mode than train the one in --workdir; that of
    --initial_run, without its warm-up; else that of --model on the embedded data.
    """
    values, rest = _named(argv)
    if "config" in values:
        config = configuration.load(values["config"])
    elif values.get("mode", "train") in MODES[1:] and "workdir" in values:
        config = configuration.from_json(os.path.join(values["workdir"], "config.json"))
    elif values.get("initial_run") and "model" not in values:
        config = configuration_to_go_on_from(values["initial_run"], values.get("workdir"))
    else:
        model = values.get("model", configuration.DEFAULT_MODEL)
        configuration.check_name("model", model, configuration.MODELS)
        config = configuration.load(os.path.join(HERE, "configs", f"{model}.py"))
    if values.get("model", config.model.name) != config.model.name:
        raise RunError(
            f"the configuration is for the model {config.model.name!r}, "
            f"--model says {values['model']!r}"
        )
    return config, rest


def _named(argv):
    """`{flag: value}` of the flags that say which configuration it is, and the arguments without
    --config."""
    values, rest = {}, [argv[0]]
    arguments = iter(argv[1:])
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name in (
            "config",
            "model",
            "mode",
            "workdir",
            "initial_run",
        ):
            value = value if equals else next(arguments, "")
            if not value or (not equals and value.startswith("--")):
                raise RunError(f"expected a value, --{name}=VALUE. Received: {value or 'none'}")
            if name in ("workdir", "initial_run"):
                value = os.path.expanduser(value)
            values[name] = value
            argument = f"--{name}={value}"
        if name != "config":
            rest.append(argument)
    return values, rest


def configuration_to_go_on_from(initial_run, workdir):
    """The configuration of the run in `initial_run`, without its warm-up and its published number;
    where that folder is gone, that of the run in `workdir`, which started from it."""
    path = os.path.join(initial_run, "config.json")
    if workdir and not os.path.exists(path):
        own = os.path.join(workdir, "config.json")
        if os.path.exists(own):
            return configuration.from_json(own)
    config = configuration.from_json(path)
    config.objective.warmup_epochs = 0
    config.objective.exponential_warmup_steps = 0
    configuration.forget_published(config)
    return config


def repeat(argv):
    """The command line that repeats a run elsewhere: without this machine's folders, or a mode."""
    kept, arguments = [], iter(argv[1:])
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if name in ("workdir", "mode", "data_dir"):
            if not equals:
                next(arguments, None)  # the value stands by itself
            if name == "data_dir":
                kept.append("--data_dir=DIR")
        elif name in ("initial_run", "config.training.initial_run"):
            folder = value if equals else next(arguments, "")
            kept.append(f"--{name}=runs/{os.path.basename(os.path.abspath(folder))}")
        else:
            kept.append(argument)
    return shlex.join(["python", "run_experiment.py", *kept])


def parse(argv, config):
    """Parses the flags; overrides and shorthands are written into `config`.

    A published number is one of the file's data and protocol: with other ones it goes, unless the
    command line names it."""
    argv = [_long_form(argument) for argument in argv]
    overrides = [a.removeprefix("--config.") for a in argv if a.startswith("--config.")]
    fields = [override.partition("=")[0] for override in overrides]
    configuration.check_overrides(config, fields)
    as_in_the_file = configuration.protocol_of(config)
    to_none = configuration.set_to_none(config, overrides)
    argv = [a for a in argv if a.removeprefix("--config.") not in to_none]
    options = flags.FlagValues()
    for name, kind, default, text in FLAGS:
        if isinstance(kind, tuple):
            flags.DEFINE_enum(name, default, kind, text, flag_values=options)
        elif name != "config":
            define = {
                str: flags.DEFINE_string,
                int: flags.DEFINE_integer,
                bool: flags.DEFINE_boolean,
            }[kind]
            define(name, default, text, flag_values=options)
    config_flags.DEFINE_config_dict("config", config, flag_values=options, sys_argv=argv)
    try:
        left = options(argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise RunError(str(error).strip().splitlines()[0]) from error
    if left[1:]:
        raise RunError(f"expected flags such as --model=vae. Received: {' '.join(left[1:])}")
    for flag, field in SHORTHANDS.items():
        if options[flag].value is not None:
            if field in fields:
                raise RunError(f"expected either --{flag} or --config.{field}, received both")
            config.update_from_flattened_dict({field: options[flag].value})
    if options.label_seed is not None and not config.labels.num_labels:
        raise RunError(f"expected --num_labels beside --label_seed={options.label_seed}")
    if options.data_dir == "":
        raise RunError("expected a folder, --data_dir=DIR. Received: none")
    if options.num_images < 1:
        raise RunError(f"expected --num_images of at least 1. Received: {options.num_images}")
    names_published = any(field.startswith("published.") for field in fields)
    if configuration.protocol_of(config) != as_in_the_file and not names_published:
        configuration.forget_published(config)
    return options


def _long_form(argument):
    """`-config.x`, `--noconfig.x` as `--config.x...`; anything else as it is."""
    name = argument.lstrip("-")
    if argument.startswith("-") and name.startswith("noconfig."):
        return f"--{name.removeprefix('no')}=False"
    return f"--{name}" if argument.startswith("-") and name.startswith("config.") else argument


def help_text(config):
    """What --help prints: flags, the fields of the configuration, models and data sets."""
    lines = [__doc__, "Flags:"]
    for name, kind, default, text in FLAGS:
        if isinstance(kind, tuple):
            text = f"{text}; one of: {', '.join(kind)}"
        if default not in (None, "", False):
            text = f"{text} (default: {default})"
        lines += textwrap.wrap(
            f"--{name:17s}{text}", 96, initial_indent="  ", subsequent_indent=" " * 21
        )
    lines += ["", "Fields of the configuration, each set by --config.SECTION.FIELD=VALUE:"]
    choices = configuration.choices(config)
    for name, value in configuration.flatten(config.to_dict()).items():
        words = ", ".join(choices.get(name, ()))
        lines.append(f"  --config.{name}={value}" + (f"    (one of: {words})" if words else ""))
    for title, entries in (
        ("Models", {name: entry.summary for name, entry in configuration.MODELS.items()}),
        ("Data sets", DATASETS),
    ):
        lines += ["", f"{title}:"]
        for name, summary in entries.items():
            lines += textwrap.wrap(
                f"{name:18s}{summary}", 96, initial_indent="  ", subsequent_indent=" " * 20
            )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main(sys.argv)
    except (RunError, DataError) as mistake:
        sys.exit(f"error: {str(mistake).strip().splitlines()[0]}")
    except BrokenPipeError:  # the reader has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        sys.exit(f"error: {error}; what was written before is whole, and the same command uses it")
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from the last checkpoint")
