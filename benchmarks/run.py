"""Speed, as ratios, in one run: each row a value, its target, and whether it was met.

    python benchmarks/run.py
    python benchmarks/run.py --quick --only=training,evaluation
    python benchmarks/run.py --torch_python=PATH/python

Ratios are medians over repeats in which all candidates take turns, so that a machine that slows
down slows down all of them. Rates are images or samples per second of wall-clock time.
"""

import multiprocessing
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags

HERE = pathlib.Path(__file__).resolve().parent
ENTRY_POINT = HERE.parent / "run_experiment.py"
MODELS = ("vae", "vampprior", "hvae", "conv_hvae", "ladder_vae")
EVENT_SHAPE = (28, 28, 1)
BATCH_SIZES = {**dict.fromkeys(MODELS, 100), "ladder_vae": 256}

flags.DEFINE_boolean("quick", False, "fewer steps and repeats: faster, noisier")
flags.DEFINE_integer(
    "repeats", None, "rounds that medians are taken of; default: 5, 3 with --quick", lower_bound=1
)
flags.DEFINE_list(
    "only",
    [],
    "benchmarks among: startup, evaluation, memory, training, mixed_precision, normalization, "
    "sampling, labels",
)
flags.DEFINE_list("models", list(MODELS), "models of the training and evaluation benchmarks")
flags.DEFINE_string("torch_python", sys.executable, "a Python that can import torch")


class Row:
    """One line of the table; `target` is the bound that `value` has to keep, None for a fact."""

    def __init__(self, name, value, unit="", target=None, at_most=False):
        self.name, self.value, self.unit = name, value, unit
        self.target, self.at_most = target, at_most

    def cells(self):
        value = self.value if isinstance(self.value, str) else f"{self.value:,.3g}"
        if isinstance(self.value, float) and self.value >= 1000.0:
            value = f"{self.value:,.0f}"
        if self.target is None or isinstance(self.value, str):
            return self.name, f"{value} {self.unit}", "", ""
        met = self.value <= self.target if self.at_most else self.value >= self.target
        sign = "<=" if self.at_most else ">="
        return self.name, f"{value} {self.unit}", f"{sign} {self.target:g}", "yes" if met else "NO"


def take_turns(candidates, repeats):
    """Rates `{name: [repeats]}` of functions that return a rate; one round before is not counted,
    in which they compile."""
    rates = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, measure in candidates.items():
            rate = measure()
            if repeat:
                rates[name].append(rate)
    return rates


def ratio(rates, name, other):
    return statistics.median(a / b for a, b in zip(rates[name], rates[other]))


# Work, in multiply-additions of matrix products and convolutions
# -------------------------------------------------------------------------------------------------


def multiply_additions(name):
    """`(forward, first)` of one image in training: all of the forward pass, and the part of it
    that works on images, for which the backward pass needs no gradient of the input."""
    if name == "ladder_vae":
        # From layer to layer of the pass upward, then mean and variance of each.
        upward = 784 * 512 + 512 * 512 + 512 * 256 + 256 * 256 + 256 * 128 + 128 * 128
        upward += 128 * 64 + 64 * 64 + 64 * 32 + 32 * 32
        heads = 512 * 128 + 256 * 64 + 128 * 32 + 64 * 16 + 32 * 8
        return upward + heads + multiply_additions_per_sample(name), 784 * 512
    head, first = 300 * 80, 784 * 600
    if name in ("vae", "vampprior"):
        encoder, decoder = first + 300 * 600 + head, 40 * 600 + 300 * 600 + 300 * 784
        if name == "vae":
            return encoder + decoder, first
        pseudo_inputs = encoder * 500 / BATCH_SIZES[name]  # 500 are encoded once for a batch
        return encoder + decoder + pseudo_inputs + 80 * 500, first
    joint, z1_given_z2 = 600 * 600, 40 * 600 + 300 * 600 + head
    if name == "hvae":
        encoders = first + 300 * 600 + head + first + 40 * 600 + joint + head
        return encoders + z1_given_z2 + 2 * 40 * 600 + joint + 300 * 784, 2 * first

    def convolution(size, kernel, channels, filters):
        return size**2 * kernel**2 * channels * 2 * filters

    q_z2 = [(28, 7, 1, 32), (14, 3, 32, 32), (14, 5, 32, 64), (7, 3, 64, 64), (7, 3, 64, 6)]
    q_z1 = [(28, 3, 1, 32), (14, 3, 32, 32), (14, 3, 32, 64), (7, 3, 64, 64), (7, 3, 64, 6)]
    p_x = [(28, 3, 1, 64), *[(28, 3, 64, 64)] * 3]
    convolutions = sum(convolution(*layer) for layer in (*q_z2, *q_z1, *p_x))
    dense = 294 * 80 + 40 * 588 + 588 * 600 + head + z1_given_z2 + 2 * 40 * 600 + 600 * 2 * 784
    return convolutions + dense + 784 * 64, convolution(*q_z2[0]) + convolution(*q_z1[0])


def multiply_additions_per_sample(name):
    """Of one importance sample of one image, without what is encoded once for all samples."""
    if name == "vampprior":
        return 40 * 600 + 300 * 600 + 300 * 784 + 80 * 500
    if name == "ladder_vae":
        p_z4, p_z3 = 4 * 32 + 32 * 32 + 32 * 16, 8 * 64 + 64 * 64 + 64 * 32
        p_z2, p_z1 = 16 * 128 + 128 * 128 + 128 * 64, 32 * 256 + 256 * 256 + 256 * 128
        return p_z4 + p_z3 + p_z2 + p_z1 + 64 * 512 + 512 * 512 + 512 * 784
    q_z1 = 40 * 600 + 300 * 600 + 300 * 80
    p_z1 = 40 * 600 + 300 * 600 + 300 * 80
    return q_z1 + p_z1 + 2 * 40 * 600 + 600 * 600 + 300 * 784


# Candidates
# -------------------------------------------------------------------------------------------------


def matrix_product(rows, inner, columns):
    """A function that measures fp32 matrix products, in FLOP/s."""
    import tensorflow as tf

    a, b = tf.random.normal([rows, inner]), tf.random.normal([inner, columns])
    flops = 2.0 * rows * inner * columns
    count = max(1, round(2e10 / flops))

    @tf.function
    def products():
        total = 0.0
        for _ in tf.range(count):
            total += tf.matmul(a, b + total * 1e-30)[0, 0]
        return total

    def measure():
        start = time.perf_counter()
        products().numpy()
        return count * flops / (time.perf_counter() - start)

    return measure


def make_model(name):
    """A model at paper size."""
    from tfhvae import configuration, models

    entry = configuration.MODELS[name]
    arguments = {k: v for k, v in entry.fields.items() if k not in ("pseudo_inputs", "logit_limit")}
    return getattr(models, entry.class_name)(EVENT_SHAPE, **arguments)


def compile_as_experiments_do(model, name, steps):
    from tfhvae import configuration, training
    from tfhvae.data import pipeline
    from tfhvae.objectives import Objective

    config = configuration.base_config(name, "dynamic_mnist")
    model.compile(
        training.make_optimizer(config.optimizer, steps, 100),
        Objective(),
        jit_compile=not model.uses_convolutions,
        steps_per_execution=pipeline.steps_per_execution(steps),
    )


def fit(model, dataset, steps, batch_size, callbacks=()):
    """A function that measures two epochs of Keras' `fit` on endless batches, in images per
    second."""
    import keras

    done = 0

    class Stopwatch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == done:
                self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds = time.perf_counter() - self.start

    def measure():
        nonlocal done
        stopwatch = Stopwatch()
        model.fit(
            dataset,
            epochs=done + 2,
            initial_epoch=done,
            steps_per_epoch=steps,
            callbacks=[*callbacks, stopwatch],
            verbose=0,
            shuffle=False,
        )
        done += 2
        return 2 * steps * batch_size / stopwatch.seconds

    return measure


def bare_loop(model, images, steps, batch_size):
    """A function that measures the compiled update of a model in a loop without Keras, `tf.data`,
    metrics or callbacks, in images per second."""
    import tensorflow as tf

    from tfhvae.data import pipeline
    from tfhvae.models.base import stateless_seed

    images = tf.constant(images)

    @tf.function(autograph=False)
    def loop():
        def body(step):
            seed = stateless_seed(1, step)
            indices = tf.random.stateless_uniform([batch_size], seed, 0, len(images), tf.int32)
            x = pipeline.binarize(tf.gather(images, indices), seed)
            model._compiled_update(x, model.noise(seed, batch_size, 1))
            return [step + 1]

        return tf.while_loop(lambda step: step < steps, body, [0], parallel_iterations=1)

    def measure():
        start = time.perf_counter()
        loop()[0].numpy()
        return steps * batch_size / (time.perf_counter() - start)

    return measure


def torch_steps(name, steps):
    """A function that measures eager PyTorch steps in a process of its own, in images per second,
    and that process; or None and the reason why there is none."""
    python = flags.FLAGS.torch_python
    probe = subprocess.run([python, "-c", "import torch"], capture_output=True)
    if probe.returncode:
        return None, "skipped: torch is not importable, see --torch_python"
    batch_size = BATCH_SIZES[name]
    process = subprocess.Popen(
        [python, HERE / "torch_eager.py", name, str(batch_size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def measure():
        process.stdin.write(f"{steps}\n")
        process.stdin.flush()
        return steps * batch_size / float(process.stdout.readline())

    return measure, process


# Benchmarks: each returns rows
# -------------------------------------------------------------------------------------------------


def peak(repeats):
    sizes = {"256x512x512": (256, 512, 512), "2048x2048x2048": (2048, 2048, 2048)}
    rates = take_turns({name: matrix_product(*size) for name, size in sizes.items()}, repeats)
    return [
        Row(f"fp32 matrix product {name}", statistics.median(rates[name]) / 1e9, "GFLOP/s")
        for name in sizes
    ]


def training(quick, repeats):
    import numpy as np
    import plain_keras

    from tfhvae import training as training_module
    from tfhvae.data import pipeline

    for name in flags.FLAGS.models:
        steps = 3 if name == "conv_hvae" else 50 if quick else 200
        batch_size = BATCH_SIZES[name]
        images = np.random.default_rng(0).random((steps * batch_size, *EVENT_SHAPE), np.float32)
        dataset = pipeline.training_batches(images, batch_size, 0, 0, "per_batch")
        model, bare = make_model(name), make_model(name)
        compile_as_experiments_do(model, name, steps)
        compile_as_experiments_do(bare, name, steps)
        with tempfile.TemporaryDirectory() as folder:
            callbacks = [
                training_module.Recorder(
                    training_module.RunState(),
                    training_module.Checkpoints(os.path.join(folder, "checkpoints")),
                    os.path.join(folder, "metrics.csv"),
                    checkpoint_seconds=1e9,
                ),
                training_module.TensorBoardLog(os.path.join(folder, "tensorboard")),
            ]
            candidates = {
                "fit": fit(model, dataset, steps, batch_size, callbacks),
                "bare": bare_loop(bare, images, steps, batch_size),
                "plain": fit(plain_keras.build(name), dataset, steps, batch_size),
                "peak": matrix_product(2048, 2048, 2048),
            }
            eager, process = torch_steps(name, max(2, steps // 10))
            if eager is not None:
                candidates["torch"] = eager
            try:
                rates = take_turns(candidates, repeats)
            finally:
                if eager is not None:
                    process.stdin.close()
                    process.wait()
        forward, first = multiply_additions(name)
        flops = 2.0 * (3 * forward - first)
        utilization = statistics.median(
            100.0 * a * flops / b for a, b in zip(rates["fit"], rates["peak"])
        )
        plain_target = 1.4 if name in ("vampprior", "ladder_vae") else None
        torch_ratio = process if eager is None else ratio(rates, "fit", "torch")
        yield from [
            Row(f"{name}: training with fit", statistics.median(rates["fit"]), "images/s"),
            Row(f"{name}: share of the matrix-product peak", utilization, "%"),
            Row(f"{name}: fit / bare compiled loop", ratio(rates, "fit", "bare"), "", 0.9),
            Row(f"{name}: fit / plain Keras fit", ratio(rates, "fit", "plain"), "", plain_target),
            Row(f"{name}: fit / eager PyTorch", torch_ratio, "", 2.0),
        ]


def evaluation(quick, repeats):
    import numpy as np

    from tfhvae import evaluation as evaluation_module

    num_images, num_samples = 4, 2000 if quick else 10000
    x = (np.random.default_rng(0).random((num_images, *EVENT_SHAPE)) < 0.2).astype(np.float32)
    for name in ("vampprior", "hvae", "ladder_vae"):
        if name not in flags.FLAGS.models:
            continue
        model = make_model(name)
        flops = 2.0 * multiply_additions_per_sample(name)
        # One compiled function, as for the thousands of groups of images of a test set.
        per_call = model.rows_at_once // num_images
        estimate = evaluation_module._streaming_estimate(model, num_samples, per_call, True)

        def measure(estimate=estimate):
            start = time.perf_counter()
            estimate(x, np.array([0, 1], np.int32)).numpy()
            return num_images * num_samples / (time.perf_counter() - start)

        candidates = {"L": measure, "peak": matrix_product(2048, 2048, 2048)}
        rates = take_turns(candidates, repeats)
        share = statistics.median(100.0 * a * flops / b for a, b in zip(rates["L"], rates["peak"]))
        rate = statistics.median(rates["L"])
        yield from [
            Row(f"{name}: log-likelihood, samples", rate, "/s"),
            Row(f"{name}: L_5000 of 10,000 images at this rate", 5e7 / rate / 60.0, "minutes"),
            Row(f"{name}: log-likelihood, share of the peak", share, "%", 40.0),
        ]


def _peak_memory(num_samples):
    """Peak memory of a process that evaluates with K = `num_samples`, in MB."""
    import numpy as np

    from tfhvae import startup as startup_module

    startup_module.import_tensorflow()
    from tfhvae import evaluation as evaluation_module

    x = np.zeros((8, *EVENT_SHAPE), np.float32)
    evaluation_module.log_likelihood(make_model("vampprior"), x, num_samples)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def memory(quick, repeats):
    few, many = 1000, 10000 if quick else 40000
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        first, second = (pool.apply(_peak_memory, (samples,)) for samples in (few, many))
    return [
        Row(f"peak memory of L_{few}", first, "MB"),
        Row(f"peak memory, L_{many} / L_{few}", second / first, "", 1.1, at_most=True),
    ]


def startup(quick, repeats):
    def seconds(*arguments):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return time.perf_counter() - start

    def until_first_epoch():
        with tempfile.TemporaryDirectory() as workdir:
            csv = pathlib.Path(workdir, "metrics.csv")
            command = [sys.executable, ENTRY_POINT, "--model=vampprior", f"--workdir={workdir}"]
            start = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while process.poll() is None and not (csv.exists() and csv.stat().st_size):
                time.sleep(0.02)
            elapsed = time.perf_counter() - start
            process.kill()
            process.wait()
        return elapsed

    repeats = 1 if quick else 3

    def median(function, *arguments):
        return statistics.median(function(*arguments) for _ in range(repeats))

    return [
        Row("run_experiment.py --help", median(seconds, ENTRY_POINT, "--help"), "s", 1.5, True),
        Row("end of the first epoch on digits", median(until_first_epoch), "s", 12.0, True),
        Row("import tfhvae", median(seconds, "-c", "import tfhvae"), "s"),
        Row("import tfhvae.layers", median(seconds, "-c", "import tfhvae.layers"), "s"),
    ]


def mixed_precision(quick, repeats):
    import keras
    import numpy as np

    from tfhvae import evaluation as evaluation_module
    from tfhvae import training as training_module
    from tfhvae.data import pipeline

    for name in ("conv_hvae", "fame"):
        steps, batch_size = 3 if quick else 5, BATCH_SIZES.get(name, 100)
        images = np.random.default_rng(0).random((steps * batch_size, *EVENT_SHAPE), np.float32)
        dataset = pipeline.training_batches(images, batch_size, 0, 0, "per_batch")
        models = {}
        for policy in ("float32", "mixed_bfloat16"):
            keras.mixed_precision.set_global_policy(policy)
            models[policy] = make_model(name)
            models[policy].set_weights(models["float32"].get_weights())
            compile_as_experiments_do(models[policy], name, steps)
        keras.mixed_precision.set_global_policy("float32")
        candidates = {p: fit(model, dataset, steps, batch_size) for p, model in models.items()}
        rates = take_turns(candidates, repeats)
        x = (images[:batch_size] < 0.5).astype(np.float32)
        for model in models.values():  # running averages of so few steps are still those of before
            training_module.recalibrate(model, images, batch_size, binarization="per_batch")
        elbo = [evaluation_module.bound_terms(m, x, 1)["elbo"].mean() for m in models.values()]
        total = 2 * steps * (repeats + 1)
        faster = ratio(rates, "mixed_bfloat16", "float32")
        difference = abs(elbo[0] - elbo[1])
        yield Row(f"{name}: bf16 / fp32, training", faster, "", 1.3)
        yield Row(f"{name}: |bound difference| after {total} steps", difference, "nats", 0.1, True)


def normalization(quick, repeats):
    """Batch normalisation of 100 images of 28×28 and 64 maps, with its gradient and without XLA."""
    import keras
    import tensorflow as tf

    from tfhvae.layers import BatchNormalization

    shape, steps = (100, *EVENT_SHAPE[:2], 64), 2 if quick else 5

    def candidate(layer, x):
        layer.build(shape)

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            return tape.gradient(y, x, output_gradients=x)

        def measure():
            start = time.perf_counter()
            for _ in range(steps):
                gradient = step()
            gradient.numpy()
            return steps / (time.perf_counter() - start)

        return measure

    for policy in ("float32", "mixed_bfloat16"):
        x = tf.cast(tf.random.stateless_normal(shape, (0, 0)), policy.removeprefix("mixed_"))
        layers = {
            "Keras": keras.layers.BatchNormalization(dtype=policy),
            "written out": BatchNormalization(dtype=policy),
            "fused": BatchNormalization(fused=True, dtype=policy),
        }
        rates = take_turns({name: candidate(layer, x) for name, layer in layers.items()}, repeats)
        for other in ("written out", "Keras"):
            name = f"batch normalisation of images, {policy}: fused / {other}"
            yield Row(name, ratio(rates, "fused", other))


def sampling(quick, repeats):
    """Images drawn from a PixelCNN of 64 maps, against one full pass for each pixel."""
    import keras
    import numpy as np
    import tensorflow as tf

    from tfhvae.models.parts import AutoregressiveDecoder

    count, pixels = 64, EVENT_SHAPE[0] * EVENT_SHAPE[1]
    keras.utils.set_random_seed(0)
    decoder = AutoregressiveDecoder(EVENT_SHAPE)
    uniform = tf.constant(np.random.default_rng(0).random((count, *EVENT_SHAPE), np.float32))
    x, _ = decoder._sample(None, uniform)
    one_pass = tf.function(lambda x: decoder.parameters(x))

    def kept():
        start = time.perf_counter()
        decoder._sample(None, uniform)[0].numpy()
        return count / (time.perf_counter() - start)

    def full_passes():
        start = time.perf_counter()
        one_pass(x).numpy()
        return count / (pixels * (time.perf_counter() - start))

    rates = take_turns({"kept": kept, "full": full_passes}, repeats)
    again = decoder.distribution().conditional(x).from_uniform(uniform)
    different = float(np.mean(again.numpy() != x.numpy()))
    return [
        Row("PixelCNN, 64 maps: images drawn", statistics.median(rates["kept"]), "/s"),
        Row("PixelCNN: drawn / with a pass for each pixel", ratio(rates, "kept", "full"), "", 10.0),
        Row("PixelCNN: pixels that a full pass draws otherwise", different, "", 0.0, True),
    ]


def labels(quick, repeats):
    """The cost of an unknown y against the number of classes: enumerated, summed over in part, and
    one relaxed draw."""
    import numpy as np

    from tfhvae import configuration, models
    from tfhvae import training as training_module
    from tfhvae.data import pipeline
    from tfhvae.objectives import SemiSupervisedObjective

    config, batch_size = configuration.base_config("adgm", "dynamic_mnist"), 100
    steps = 2 if quick else 10
    rng = np.random.default_rng(0)
    images = rng.random((steps * batch_size, *EVENT_SHAPE), np.float32)
    for num_classes in (2, 10, 50) if quick else (2, 10, 50, 200):
        y = np.arange(len(images)) % num_classes
        dataset = pipeline.semi_supervised_batches(
            images, y, np.arange(batch_size), batch_size, batch_size, 0, 0, "per_batch"
        )
        candidates = {}
        for inference in ("enumerated", "sum_and_sample", "gumbel"):
            if inference == "sum_and_sample" and num_classes == 2:
                continue  # one summed, one drawn: both
            model = models.ADGM(EVENT_SHAPE, num_classes=num_classes, label_inference=inference)
            model.compile(
                training_module.make_optimizer(config.optimizer, steps, 100),
                SemiSupervisedObjective(),
                jit_compile=True,
                steps_per_execution=pipeline.steps_per_execution(steps),
            )
            candidates[inference] = fit(model, dataset, steps, batch_size)
        rates = take_turns(candidates, repeats)
        name = f"adgm, {num_classes} classes"
        for inference in candidates:
            rate = statistics.median(rates[inference])
            yield Row(f"{name}: y {inference}, unlabelled", rate, "images/s")
        for inference in list(candidates)[1:]:
            faster = ratio(rates, inference, "enumerated")
            yield Row(f"{name}: {inference} / enumerated", faster)


BENCHMARKS = {
    "startup": startup,
    "evaluation": evaluation,
    "memory": memory,
    "training": training,
    "mixed_precision": mixed_precision,
    "normalization": normalization,
    "sampling": sampling,
    "labels": labels,
}


def main(argv):
    del argv
    options = flags.FLAGS
    chosen = options.only or list(BENCHMARKS)
    for name in chosen:
        if name not in BENCHMARKS:
            raise app.UsageError(
                f"expected --only among: {', '.join(BENCHMARKS)}. Received: {name}"
            )
    from rich.console import Console
    from rich.table import Table

    from tfhvae import startup as startup_module

    startup_module.import_tensorflow()
    console = Console(log_path=False)
    repeats = options.repeats or (3 if options.quick else 5)
    table = Table("", "value", "target", "met", title=f"{os.cpu_count()} CPU cores")
    sections = [("peak", lambda quick, repeats: peak(repeats)), *BENCHMARKS.items()]
    for name, benchmark in sections:
        if name == "peak" or name in chosen:
            start = time.perf_counter()
            for row in benchmark(options.quick, repeats):
                table.add_row(*row.cells())
                console.log(*row.cells()[:2], sep=": ", highlight=False)
            table.add_section()
            console.log(f"{name}: measured in {time.perf_counter() - start:.0f} s")
    console.print(table)


if __name__ == "__main__":
    app.run(main)
