"""What an experiment is: every field, its default, and what names exist. Importing this is cheap;
nothing here needs TensorFlow."""

import contextlib
import copy
import dataclasses
import inspect
import json
import math
import os
import re
import runpy
import traceback

import ml_collections
from ml_collections import config_dict

from tfhvae.data import DATASETS, OPTIONS
from tfhvae.errors import RunError


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A name for `--model`: the class behind it, its paper, and the fields that configure it."""

    class_name: str
    summary: str
    fields: dict
    classifies_latents: bool = False  # by what is fitted to latents of images after training


_PRIOR = {
    "prior": "standard",
    "num_components": 500,
    "pseudo_inputs": "random",
    "pseudo_input_init": (0.05, 0.01),
    "train_pseudo_inputs": True,
}
_GAUSSIAN = {"log_variance_limits": (-6.0, 2.0), "logit_limit": config_dict.placeholder(float)}
_VAE = {
    "latent_dim": 40,
    "hidden_units": (300, 300),
    "gated": True,
    "activation": "relu",
    **_PRIOR,
    **_GAUSSIAN,
}
_HVAE = {"latent_dims": (40, 40), "hidden_units": 300, **_PRIOR, **_GAUSSIAN}
_CONV_HVAE = {**_HVAE, "width": 1.0, "decoder_convolutions": 4}
_PIXEL_CNN = {"pixel_filters": 64, "first_kernel_size": 7, "blocks": 4}
_FAME = {
    "latent_dims": (64, 32, 16, 8, 4),
    "hidden_units": (512, 256, 128, 64, 32),
    "filters": (32, 64, 64, 64, 64),
    "activation": "relu",
    "batch_normalization": "hidden",
    "decoder": "pixel_cnn",
    "concatenate": True,
    "context_channels": 8,
    **_PIXEL_CNN,
}
_DEEP = {
    "latent_dims": (64, 32, 16, 8, 4),
    "hidden_units": (512, 256, 128, 64, 32),
    "activation": "leaky_rectifier",
    "batch_normalization": "all",
}
_SEMI_SUPERVISED = {
    "num_classes": config_dict.placeholder(int),  # None: the data set's
    "latent_dim": 100,
    "hidden_units": (500, 500),
    "activation": "relu",
    "batch_normalization": "none",
    "label_inference": "enumerated",
    "temperature": 0.5,
    "summed_classes": 1,
}
_AUXILIARY = {**_SEMI_SUPERVISED, "auxiliary_dim": 100}

_FIXED_DENSITY = {"density": "gaussian", "output_scale": 0.354, "output_mean": "sigmoid"}

MODELS = {
    "vae": ModelEntry("VAE", "VAE with one latent variable (Kingma & Welling 2014)", _VAE),
    "iwae": ModelEntry(
        "VAE", "the VAE trained on the importance-weighted bound (Burda et al. 2016)", _VAE
    ),
    "vampprior": ModelEntry(
        "VAE", "VAE with a VampPrior (Tomczak & Welling 2018)", {**_VAE, "prior": "vampprior"}
    ),
    "hvae": ModelEntry("HVAE", "two-level hierarchical VAE (Tomczak & Welling 2018)", _HVAE),
    "hvae_vampprior": ModelEntry(
        "HVAE", "two-level hierarchical VAE with a VampPrior on z2", {**_HVAE, "prior": "vampprior"}
    ),
    "conv_hvae": ModelEntry("ConvHVAE", "two-level HVAE with gated convolutions", _CONV_HVAE),
    "pixel_hvae": ModelEntry(
        "PixelHVAE",
        "two-level HVAE with a PixelCNN decoder (Tomczak & Welling 2018)",
        {
            **_HVAE,
            "width": 1.0,
            "pixel_filters": 64,
            "masked_convolutions": 7,
            "first_kernel_size": 3,
        },
    ),
    "deep_vae": ModelEntry(
        "DeepVAE", "VAE of L layers, inference bottom-up (Sønderby et al. 2016a)", _DEEP
    ),
    "prob_ladder": ModelEntry(
        "ProbabilisticLadder",
        "probabilistic ladder network of L layers (Sønderby et al. 2016a)",
        {**_DEEP, "top_down": "own", "upward": "means"},
    ),
    "ladder_vae": ModelEntry(
        "LadderVAE",
        "Ladder VAE of L layers (Sønderby et al. 2016b)",
        {**_DEEP, "top_down": "shared", "upward": "hidden"},
    ),
    "avae": ModelEntry(
        "AVAE",
        "auxiliary VAE of L levels (Maaløe et al. 2016)",
        {
            **_DEEP,
            "latent_dims": (64, 32),
            "hidden_units": (512, 256),
            "auxiliary_dims": (64, 32),
            "auxiliary_given_x": False,
        },
    ),
    "m2": ModelEntry(
        "M2", "semi-supervised VAE with a class (Kingma et al. 2014)", _SEMI_SUPERVISED
    ),
    "m1_svm": ModelEntry(
        "VAE",
        "M1: a VAE, and a support vector machine on its latents (Kingma et al. 2014)",
        _VAE,
        classifies_latents=True,
    ),
    "m1_m2": ModelEntry(
        "M1M2",
        "M2 on the latents of a VAE that is trained first (Kingma et al. 2014)",
        {
            "num_classes": config_dict.placeholder(int),
            "m1_latent_dim": 50,
            "m1_hidden_units": (500, 500),
            "latent_dim": 50,
            "hidden_units": (300,),
            "activation": "softplus",
            "label_inference": "enumerated",
            "temperature": 0.5,
            "summed_classes": 1,
        },
    ),
    "adgm": ModelEntry(
        "ADGM",
        "auxiliary deep generative model, semi-supervised (Maaløe et al. 2016)",
        {**_AUXILIARY, "auxiliary_given_x": False, "stochastic_auxiliary": True},
    ),
    "sdgm": ModelEntry(
        "SDGM",
        "skip deep generative model, semi-supervised (Maaløe et al. 2016)",
        _AUXILIARY,
    ),
    "pv_sdgm": ModelEntry(
        "SDGM",
        "the SDGM on measurements of a photovoltaic plant (Maaløe et al. 2018)",
        {**_AUXILIARY, "latent_dim": 10, "auxiliary_dim": 10, "hidden_units": (50, 50)},
    ),
    "cagem": ModelEntry(
        "CaGeM",
        "cluster-aware generative model, with or without labels (Maaløe et al. 2017)",
        {
            "num_classes": config_dict.placeholder(int),
            "latent_dims": (64, 32),
            "hidden_units": (1024, 512),
            "activation": "relu",
            "batch_normalization": "hidden",
            "label_inference": "enumerated",
            "temperature": 0.5,
            "summed_classes": 1,
            "cascade_weight": 1.0,
        },
    ),
    "pixel_cnn": ModelEntry(
        "PixelCNNModel",
        "autoregressive model without latent variables (van den Oord et al. 2016)",
        {**_PIXEL_CNN, "kind": "residual", "batch_normalization": "hidden"},
    ),
    "fame": ModelEntry(
        "FAME",
        "feature map VAE: convolutional Ladder VAE with a PixelCNN (Maaløe & Winther 2018)",
        _FAME,
    ),
    "fame_no_concat": ModelEntry(
        "FAME",
        "feature map VAE whose PixelCNN does not see the image: one-pass generation",
        {**_FAME, "concatenate": False},
    ),
    "vlae": ModelEntry(
        "VLAE",
        "Variational Ladder Autoencoder (Zhao et al. 2017)",
        {
            **_FIXED_DENSITY,
            "latent_dims": (2, 2, 2),
            "trunk": "conv_small",
            "filters": (64, 128, 1024),
            "merge": "concatenate",
            "gate_init": 0.1,
            "ladders": "shared",
            "scale": "sigmoid",
            "activation": "leaky_rectifier",
            "batch_normalization": "hidden",
        },
    ),
    "gaussian_hvae": ModelEntry(
        "GaussianHVAE",
        "Gaussian hierarchy of L layers (Zhao et al. 2017, B.1)",
        {
            **_FIXED_DENSITY,
            "train_output_scale": False,
            "latent_dims": (32, 16, 8),
            "hidden_units": (512, 256, 128),
            "trunk": "conv",
            "filters": (64, 128),
            "activation": "leaky_rectifier",
            "batch_normalization": "none",
        },
    ),
}
DEFAULT_MODEL = "vampprior"
PSEUDO_INPUTS = ("random", "training_images")
LABEL_CHOICES = ("random", "marked")
SCHEDULES = ("constant", "step", "cosine")
BATCH_STATISTICS = ("running", "recalibrated")
LATENT_CLASSIFIERS = ("svm", "label_spreading")
CHOICES = {  # fields that take one of a few words, for --help
    "model.prior": ("standard", "mixture", "vampprior"),
    "model.pseudo_inputs": PSEUDO_INPUTS,
    "model.batch_normalization": ("none", "hidden", "all"),
    "model.label_inference": ("enumerated", "sum_and_sample", "gumbel"),
    "model.density": ("gaussian", "laplace"),
    "model.top_down": ("own", "shared"),
    "model.upward": ("means", "hidden"),
    "model.merge": ("concatenate", "gated"),
    "model.ladders": ("shared", "own"),
    "model.decoder": ("pixel_cnn", "independent"),
    "model.kind": ("residual", "gated"),
    "model.scale": ("softplus_variance", "clipped_log_variance", "sigmoid"),
    "model.output_mean": ("sigmoid", "linear"),
    "labels.choice": LABEL_CHOICES,
    "objective.kl": ("sampled", "analytic"),
    "objective.gradient": ("standard", "sticking_the_landing", "doubly_reparameterized"),
    "objective.warmup_per": ("epoch", "step"),
    "optimizer.schedule": SCHEDULES,
    "evaluation.batch_statistics": BATCH_STATISTICS,
    "evaluation.latent_classifier": LATENT_CLASSIFIERS,
}
TRUNKS = {"vlae": ("dense", "conv_small", "conv_medium"), "gaussian_hvae": ("dense", "conv")}


_SECTIONS = (
    "model",
    "dataset",
    "labels",
    "objective",
    "optimizer",
    "training",
    "evaluation",
    "published",
)


def base_config(model, dataset):
    """Every field of an experiment with its default.

    Args:
      model: a name in `MODELS`.
      dataset: a name in `tfhvae.data.DATASETS`.

    Returns:
      A locked `ml_collections.ConfigDict`.
    """
    check_name("model", model, MODELS)
    config = ml_collections.ConfigDict(
        {
            "seed": 0,
            # copied, as a placeholder holds what it is set to
            "model": {"name": model, **copy.deepcopy(MODELS[model].fields)},
            "dataset": {
                "name": dataset,
                "binarization": config_dict.placeholder(str),  # None: the data set's default
                "split": config_dict.placeholder(str),
                "cameras": config_dict.placeholder(str),
                "dequantization": config_dict.placeholder(str),
                "crop": config_dict.placeholder(str),
                "colours": config_dict.placeholder(str),
                "min_pixel_std": config_dict.placeholder(float),  # pixels below it are dropped
                "checksum": config_dict.placeholder(str),  # of `arrays`; a run writes it down
            },
            "labels": {  # of semi-supervised models
                "num_labels": 0,  # in all, balanced over the classes; 0: unsupervised, -1: all (of that choice)
                "choice": "random",  # which are labelled; "marked": those that the data set names
                "seed": 0,  # which images are labelled, of a random choice
                "batch_size": 100,  # labelled images beside each batch
                "disjoint": False,  # whether labelled images are left out of the unlabelled ones
                "weight": 0.1,  # the papers' beta; alpha is beta (N_l + N_u) / N_l
            },
            "objective": {
                "num_samples": 1,
                "num_importance": 1,
                "kl": "sampled",
                "free_bits": 0.0,
                "gradient": "standard",
                "warmup_epochs": 0,
                "warmup_start": 0.0,
                "warmup_per": "epoch",
                "exponential_warmup_steps": 0,  # n: beta = 1 - exp(-update / n); 0: none
                "class_warmup": False,  # whether beta weighs the terms of an unknown class too
                "weight_prior_std": config_dict.placeholder(float),  # a prior N(0, std²) on kernels
            },
            "optimizer": {
                "learning_rate": 5e-4,
                "schedule": "constant",
                "decay_factor": 0.75,  # of "step"
                "decay_epochs": 200,
                "beta_1": 0.9,
                "beta_2": 0.999,
                "epsilon": 1e-8,
                "normalize_gradients": False,
                "global_clipnorm": config_dict.placeholder(float),
                "element_clip": config_dict.placeholder(float),  # after global_clipnorm
            },
            "training": {
                "epochs": 100,
                "batch_size": 100,
                "m1_epochs": 100,  # of the first stage of m1_m2
                "m1_learning_rate": config_dict.placeholder(float),  # if not the second stage's
                "patience": 0,  # epochs without a better validation bound, counted after warm-up; 0: no early stopping
                "mixed_precision": False,
                "checkpoint_seconds": 30.0,
                "histograms": False,
                "test_curve": True,  # where there is no validation part
                "initial_run": config_dict.placeholder(str),  # folder of the run to start from
            },
            "evaluation": {
                "num_samples": 5000,
                # None: log p(x) is estimated of every test image; else of so many, a fixed part
                "likelihood_images": config_dict.placeholder(int),
                "active_unit_samples": 10,
                "classifier_samples": 100,  # draws behind a class probability
                "latent_classifier": "svm",  # of m1_svm
                "batch_statistics": "recalibrated",
            },
            "published": {
                "log_likelihood": config_dict.placeholder(float),
                "error_percent": config_dict.placeholder(float),
                "source": "",
                "protocol": "",
            },
        }
    )
    return config.lock()


def first_stage(config):
    """The configuration of M1, the VAE that an `m1_m2` run trains first."""
    stage = base_config("vae", config.dataset.name)
    stage.seed = config.seed
    stage.dataset.update(config.dataset.to_dict())
    stage.optimizer.update(config.optimizer.to_dict())
    stage.training.update(config.training.to_dict())
    stage.training.epochs, stage.training.patience = config.training.m1_epochs, 0
    if config.training.m1_learning_rate is not None:
        stage.optimizer.learning_rate = config.training.m1_learning_rate
    stage.model.latent_dim = config.model.m1_latent_dim
    stage.model.hidden_units = config.model.m1_hidden_units
    stage.model.gated = False
    stage.model.activation = config.model.activation
    stage.evaluation.update(config.evaluation.to_dict())
    return stage


def tomczak_welling(model, dataset, prior, log_likelihood):
    """The protocol of Tomczak & Welling 2018, as in the authors' code, with their published number.

    Batches of 100, Adam at 5e-4 on normalised gradients, beta = min(1, epoch/100) counted from 1,
    look-ahead of 50 epochs after the warm-up, Bernoulli means clipped to [1e-5, 1 - 1e-5], 5000
    importance samples.
    """
    config = base_config(model, dataset)
    config.model.prior = prior
    config.model.logit_limit = 11.512915  # of a mean of 1e-5
    config.objective.warmup_start = 0.01
    config.objective.warmup_epochs = 99
    config.optimizer.normalize_gradients = True
    config.training.epochs = 2000
    config.training.patience = 50
    config.published.log_likelihood = log_likelihood
    config.published.source = "Tomczak & Welling 2018"
    return config


# The four columns of the papers' figure 3 and tables, and the probabilistic ladder.
DEEP_VARIANTS = {
    "vae": ("deep_vae", "none", False),
    "vae_bn": ("deep_vae", "all", False),
    "vae_bn_wu": ("deep_vae", "all", True),
    "ladder_vae": ("ladder_vae", "all", True),
    "prob_ladder": ("prob_ladder", "all", True),
}
MAX_LAYERS = 5


def sonderby(variant, dataset, epochs, warmup_epochs=200, published=()):
    """The protocol of Sønderby et al. 2016a, b, with their published number.

    The first L of 64-32-16-8-4 latents, batches of 256, Adam at 1e-3, linear warm-up from 0 where
    the variant has one, 5000 importance samples, batch statistics taken anew for the evaluation.

    Args:
      variant: "NAME-L", a name in `DEEP_VARIANTS` and the number of layers, such as
        "ladder_vae-5"; or a key of `published` that goes on with a paper, "vae-5-2016a".
      published: `{variant: (log-likelihood, source)}`.

    Raises:
      RunError: with what exists, for another variant.
    """
    known = [f"{v}-{n}" for v in DEEP_VARIANTS for n in range(1, MAX_LAYERS + 1)]
    check_name("variant", variant, [*known, *(v for v in published if v not in known)])
    name, layers = variant.split("-")[:2]
    model, batch_normalization, has_warmup = DEEP_VARIANTS[name]
    config = base_config(model, dataset)
    config.model.latent_dims = config.model.latent_dims[: int(layers)]
    config.model.hidden_units = config.model.hidden_units[: int(layers)]
    config.model.batch_normalization = batch_normalization
    config.objective.warmup_epochs = warmup_epochs if has_warmup else 0
    config.optimizer.learning_rate = 1e-3
    config.training.batch_size = 256
    config.training.epochs = epochs
    if variant in published:
        config.published.log_likelihood, config.published.source = published[variant]
    return config


def kth_report(model, dataset, epochs, warmup_epochs, learning_rate, log_likelihood):
    """The protocol of Zappia et al.'s report, with its published number.

    300 gated units, 40 latents, batches of 100, Adam, linear warm-up. One hidden layer in encoder
    and decoder of the models with one latent variable. Evaluated with 5000 importance samples, not
    with the report's 4.
    """
    config = base_config(model, dataset)
    if model != "hvae":
        config.model.hidden_units = (300,)
    if dataset == "frey_faces":
        config.model.pseudo_input_init = (0.5, 0.02)
    if dataset in ("threshold_mnist", "fashion_mnist"):
        config.dataset.split = "60k_10k"
    config.objective.warmup_start = 1.0 / warmup_epochs
    config.objective.warmup_epochs = warmup_epochs - 1
    config.optimizer.learning_rate = learning_rate
    config.training.epochs = epochs
    config.published.log_likelihood = log_likelihood
    config.published.source = "Zappia et al. (KTH)"
    bernoulli = "swapped Bernoulli arguments" if dataset == "threshold_mnist" else "other formulas"
    config.published.protocol = f"4 importance samples; {bernoulli}: not comparable"
    return config


def few_labels(model, dataset, num_labels):
    """The training of Maaløe et al. 2016: what their later code, of the SDGM, does with MNIST, and
    the same for their other sets.

    Adam at 3e-4, multiplied by 0.75 every 200 epochs, gradient clipping, a prior N(0, 1) on the
    weights, batch normalisation.
    """
    config = base_config(model, dataset)
    config.model.batch_normalization = "hidden"
    config.labels.num_labels = num_labels
    config.objective.weight_prior_std = 1.0
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "step"
    config.optimizer.global_clipnorm = 5.0
    config.optimizer.element_clip = 1.0
    config.training.epochs = 1000
    return config


def photovoltaic(dataset="pv_simulated", published=None):
    """The protocol of Maaløe et al. 2018 (appendix D of the thesis), as far as it is told: two
    hidden layers of 50, warm-up, a stop when the validation saturates. Units of the latent
    variables, learning rate and its cosine decay, batch and beta are ours.

    Args:
      published: accuracy in percent.
    """
    config = base_config("pv_sdgm", dataset)
    config.labels.num_labels = -1
    config.labels.weight = 2.0
    config.labels.batch_size = 200
    config.objective.warmup_epochs = 10
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.training.batch_size = 200
    config.training.epochs = 60
    config.training.patience = 10
    config.evaluation.num_samples = 500
    if published is not None:
        config.published.error_percent = round(100.0 - published, 2)
        config.published.source = "Maaløe et al. 2018"
        config.published.protocol = (
            "measurements never published, ours are simulated: not comparable"
        )
    return config


def check_name(kind, name, known):
    """Raises RunError with the list of what exists unless `name` is in `known`."""
    if name not in known:
        raise RunError(f"expected a {kind} among: {', '.join(known)}. Received: {name!r}")


def check(config):
    """Raises RunError, in one line, for a value that no run could use."""
    check_name("model", config.model.name, MODELS)
    check_name("dataset", config.dataset.name, DATASETS)
    check_name("schedule", config.optimizer.schedule, SCHEDULES)
    check_name("labels.choice", config.labels.choice, LABEL_CHOICES)
    check_name("batch_statistics", config.evaluation.batch_statistics, BATCH_STATISTICS)
    check_name("latent_classifier", config.evaluation.latent_classifier, LATENT_CLASSIFIERS)
    if "pseudo_inputs" in config.model:
        check_name("pseudo_inputs", config.model.pseudo_inputs, PSEUDO_INPUTS)
    for section, field, least in (
        ("training", "epochs", 1),
        ("training", "batch_size", 1),
        ("training", "m1_epochs", 1),
        ("training", "patience", 0),
        ("evaluation", "num_samples", 1),
        ("evaluation", "active_unit_samples", 1),
        ("evaluation", "classifier_samples", 1),
        ("objective", "warmup_epochs", 0),
        ("objective", "exponential_warmup_steps", 0),
        ("optimizer", "decay_epochs", 1),
        ("labels", "num_labels", -1),
        ("labels", "seed", 0),
        ("labels", "batch_size", 1),
    ):
        value = config[section][field]
        if value < least:
            raise RunError(
                f"expected {section}.{field} to be at least {least}. Received: {section}.{field}={value}"
            )
    values = flatten(config.to_dict())
    for field in (
        "optimizer.learning_rate",
        "training.m1_learning_rate",
        "optimizer.epsilon",
        "optimizer.global_clipnorm",
        "optimizer.element_clip",
        "model.logit_limit",
        "optimizer.decay_factor",
        "evaluation.likelihood_images",
    ):
        value = values.get(field)
        if value is not None and not 0 < value < math.inf:
            raise RunError(f"expected a positive {field}. Received: {value}")
    for field in ("objective.free_bits", "objective.warmup_start", "labels.weight"):
        if not 0 <= values[field] < math.inf:
            raise RunError(f"expected {field} of at least 0. Received: {values[field]}")
    for field in ("optimizer.beta_1", "optimizer.beta_2"):
        if not 0.0 <= values[field] < 1.0:
            raise RunError(f"expected {field} from 0 to 1, without 1. Received: {values[field]}")
    if config.optimizer.element_clip is not None and config.optimizer.normalize_gradients:
        raise RunError(
            "expected at most one of optimizer.element_clip and "
            "optimizer.normalize_gradients, received both"
        )
    if config.optimizer.global_clipnorm is not None and config.optimizer.normalize_gradients:
        raise RunError(
            "expected at most one of optimizer.global_clipnorm and optimizer.normalize_gradients, "
            "which undoes it. Received both"
        )
    if not 0 <= config.seed < 2**31:
        raise RunError(f"expected a seed from 0 to 2147483647. Received: {config.seed}")


def is_comparable(protocol):
    """Whether a published number may be marked beside ours: what is said of its `protocol`, a
    string, tells where not."""
    return "not comparable" not in protocol


def to_json(config):
    """The configuration as plain values, in JSON."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, default=list) + "\n"


def flatten(values, prefix=""):
    """`{"a": {"b": 1}}` to `{"a.b": 1}`."""
    flat = {}
    for key, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def differences(ours, theirs):
    """What to say of the fields in which two flat dictionaries differ, a list."""
    return [
        f"{name}={theirs.get(name)!r} there, {ours.get(name)!r} here"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def choices(config):
    """`{field: words}` of the fields that take one of a few words, for the model and data set of a
    configuration."""
    options = OPTIONS[config.dataset.name]
    return {
        **CHOICES,
        **{f"dataset.{name}": values for name, values in options.items()},
        **{"model.trunk": TRUNKS.get(config.model.name, ())},
    }


def load(path):
    """The configuration that `get_config()` of a Python file returns; `FILE.py:VARIANT` calls
    `get_config("VARIANT")`.

    Raises:
      RunError: if there is no such file, it has no `get_config`, that takes no variant, or fails,
        or returns something else.
    """
    path, _, variant = path.partition(":")
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        existing = (
            sorted(name for name in os.listdir(folder) if name.endswith(".py"))
            if os.path.isdir(folder)
            else []
        )
        raise RunError(
            f"there is no configuration {path}"
            + (f"; {folder} has: {', '.join(existing)}" if existing else "")
        )
    with _errors_of(path):
        namespace = runpy.run_path(path)
    get_config = namespace.get("get_config")
    if not callable(get_config):
        raise RunError(f"expected {path} to define get_config()")
    if variant and not inspect.signature(get_config).parameters:
        raise RunError(f"{path} has no variants. Received: {variant!r} after the colon")
    with _errors_of(path):
        config = get_config(variant) if variant else get_config()
    missing = set(_SECTIONS) - set(config if isinstance(config, ml_collections.ConfigDict) else ())
    if missing:
        raise RunError(
            f"expected get_config() of {path} to return a configuration, as from "
            f"tfhvae.configuration.base_config. Received: {type(config).__name__} without "
            f"{', '.join(sorted(missing))}"
        )
    return config


@contextlib.contextmanager
def _errors_of(path):
    """Mistakes in a person's own Python file, as one line that says where."""
    try:
        yield
    except RunError:
        raise
    except SyntaxError as error:
        raise RunError(f"expected {path} to be a Python file with get_config(): {error}") from error
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if os.path.abspath(frame.filename) == os.path.abspath(path)
        ]
        where = f"{path}, line {lines[-1]}" if lines else path
        what = re.sub(r'Other fields present: "\{.*?\}"', "", " ".join(str(error).split()))
        raise RunError(f"{where}: {type(error).__name__}: {what}") from error


def from_json(path):
    """The configuration that a run wrote to its folder.

    Raises:
      RunError: if the file is missing or not a configuration.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        config = base_config(values["model"]["name"], values["dataset"]["name"])
        config.update(_as_tuples(values))
    except FileNotFoundError as error:
        raise RunError(
            f"{os.path.dirname(path) or '.'} is not the folder of a run: it has no config.json"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a configuration of this version: {error}") from error
    return config


def check_overrides(config, names):
    """Raises RunError unless every one of `names` (such as "optimizer.learning_rate") is a field,
    and named once; with the fields that exist."""
    known = flatten(config.to_dict())
    for name in names:
        if names.count(name) > 1:
            raise RunError(f"expected config.{name} once. Received: {names.count(name)} times")
        if name not in known:
            section = name.partition(".")[0]
            fields = [field for field in known if field.startswith(section + ".")] or list(known)
            raise RunError(f"there is no field config.{name}; there are: {', '.join(fields)}")


def set_to_none(config, overrides):
    """Sets the fields that may be None to it where `overrides` ("FIELD=VALUE" each) say so, which
    the flags cannot; returns those overrides."""
    defaults = flatten(base_config(config.model.name, config.dataset.name).to_dict())
    done = []
    for override in overrides:
        field, _, value = override.partition("=")
        if value == "None" and field in defaults and defaults[field] is None:
            config.update_from_flattened_dict({field: None})
            done.append(override)
    return done


def comparable(values):
    """The part of a configuration, as nested dictionaries, that runs in one folder must share: not
    how they are evaluated, compared, logged or how often they are saved, nor how the path of the
    run is written that they start from."""
    values = {k: v for k, v in values.items() if k not in ("evaluation", "published")}
    ignored = ("checkpoint_seconds", "histograms", "test_curve")
    values["training"] = {k: v for k, v in values["training"].items() if k not in ignored}
    values["training"]["initial_run"] = run_name(values["training"].get("initial_run"))
    return values


def run_name(folder):
    """The name of a run's folder, without the way there; None for none."""
    return os.path.basename(os.path.abspath(folder)) if folder else None


def changed_fields(config, base):
    """`{"optimizer.learning_rate": value}` of the fields in which a run of `config` is another
    experiment than one of `base`; a longer run is the same one."""
    ours, theirs = (flatten(comparable(c.to_dict())) for c in (config, base))
    same = ("training.epochs", "training.initial_run")
    return {k: v for k, v in ours.items() if k not in same and v != theirs[k]}


def protocol_of(config):
    """What a published number holds for: the data and how they are taken, the model, its prior."""
    model = config.model.to_dict()
    return config.dataset.to_dict(), model["name"], model.get("prior")


def forget_published(config):
    """Takes away the published number that results would be set beside."""
    config.published = base_config(config.model.name, config.dataset.name).published


def _as_tuples(value):
    if isinstance(value, dict):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
