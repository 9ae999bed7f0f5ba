"""Several replicas compute what one device computes, and several processes are one run.

TensorFlow's devices and cluster are chosen once per process, so these tests start their own: one
with two replicas on two logical CPUs, and two workers on the loopback address, all at once.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tfhvae.errors import RunError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 600  # after which a process that hangs is ended

FIELDS = {
    "model.hidden_units": (16,),
    "model.latent_dim": 4,
    "training.batch_size": 257,
    "training.epochs": 2,
    "training.patience": 1,
    "training.checkpoint_seconds": 0.0,
    "objective.warmup_epochs": 0,
    "optimizer.learning_rate": 1e-2,
    "evaluation.num_samples": 2,
    "evaluation.active_unit_samples": 1,
}

TWO_REPLICAS = """
import json, sys
import keras
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from tfhvae import configuration, experiments, hardware, models, objectives
from tfhvae.data import pipeline
from tfhvae.models.base import stateless_seed

workdir, fields = sys.argv[1], json.loads(sys.argv[2])
found = {}

# A whole run, to compare with that of two workers
config = configuration.load("configs/vae.py")
config.update_from_flattened_dict(
    {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
)
options = hardware.Hardware(jit_compile=False, distribute="mirrored")
run = experiments.Run(config, workdir, hardware_options=options)
run.train()
found["history"] = run.state.history
strategy = run.strategy
found["replicas"] = strategy.num_replicas_in_sync
found["weights_differ_by"] = max(
    float(np.abs(a.numpy() - b.numpy()).max())
    for variable in run.model.weights
    for a, b in [strategy.experimental_local_results(variable.value)]
)


# Steps on an odd number of images, and a validation batch of one
class OneDevice:
    \"\"\"Draws on one device what two replicas draw.\"\"\"

    def _step_seed(self, step, *stream):
        return [stateless_seed(self.training_seed, step, r, *stream) for r in range(2)]

    def noise(self, seed, batch_size, num_samples=1):
        if not isinstance(seed, list):
            return super().noise(seed, batch_size, num_samples)
        sizes = [batch_size // 2, batch_size - batch_size // 2]
        parts = [super(OneDevice, self).noise(s, n, num_samples) for s, n in zip(seed, sizes)]
        return {site: tf.concat([part[site] for part in parts], 1) for site in parts[0]}


def fitted(model, batches, validation, strategy):
    history = model.fit(
        hardware.for_replicas(strategy, batches, endless=True),
        steps_per_epoch=2,
        epochs=3,
        validation_data=hardware.for_replicas(strategy, validation),
        validation_steps=3,
        verbose=0,
        shuffle=False,
    ).history
    state = {name: [float(v) for v in values] for name, values in history.items()}
    state["weights"] = [w.numpy().tolist() for w in model.weights]
    return state


def trained(make, strategy):
    keras.utils.set_random_seed(1)
    images = np.random.default_rng(0).uniform(size=[20, 4, 4, 1]).astype(np.float32)
    with strategy.scope():
        model = make((4, 4, 1), "bernoulli", latent_dim=3, hidden_units=(5,))
        model.compile(
            keras.optimizers.Adam(0.01, epsilon=1e-3, global_clipnorm=1.0),
            objectives.Objective(num_importance=2),
            jit_compile=False,
        )
    batches = pipeline.training_batches(images, 7, 0, binarization="per_batch")
    validation = pipeline.evaluation_batches(images[:9], 4)
    state = fitted(model, batches, validation, strategy)
    state["moments"] = model.posterior_moments.variance()["z1"].numpy().tolist()
    state["unit_kl"] = model.train_means.unit_kl()["z1"].numpy().tolist()
    return state


class OneVAE(OneDevice, models.VAE):
    pass


found["two"] = trained(models.VAE, strategy)
found["one"] = trained(OneVAE, tf.distribute.get_strategy())


# The same with labels
class OneM2(OneDevice, models.M2):
    pass


class OneObjective(objectives.SemiSupervisedObjective):
    def noise(self, model, seed, batch):
        (x_labelled, y), x = batch
        parts = [
            super(OneObjective, self).noise(model, s, ((a, y), b))
            for s, a, b in zip(seed, tf.split(x_labelled, 2), tf.split(x, 2))
        ]
        return tf.nest.map_structure(lambda *noise: tf.concat(noise, 1), *parts)


def trained_with_labels(make, make_objective, strategy):
    keras.utils.set_random_seed(1)
    images = np.random.default_rng(0).uniform(size=[20, 4, 4, 1]).astype(np.float32)
    y = np.arange(20) % 3
    with strategy.scope():
        model = make((4, 4, 1), num_classes=3, latent_dim=3, hidden_units=(5,))
        model.compile(
            keras.optimizers.Adam(0.01, epsilon=1e-3, global_clipnorm=1.0),
            make_objective(alpha=3.0),
            jit_compile=False,
        )
    batches = pipeline.semi_supervised_batches(images, y, np.arange(6), 8, 4, 0, 0, "per_batch")
    validation = pipeline.evaluation_batches(images[:9], 4, labels=y[:9])
    return fitted(model, batches, validation, strategy)


found["two with labels"] = trained_with_labels(
    models.M2, objectives.SemiSupervisedObjective, strategy
)
found["one with labels"] = trained_with_labels(OneM2, OneObjective, tf.distribute.get_strategy())

config = configuration.base_config("m2", "digits")
config.labels.num_labels, config.training.batch_size = 50, 99
try:
    experiments.Run(config, workdir + "-odd", hardware_options=options)
except experiments.RunError as error:
    found["refused"] = str(error)

# Batch normalisation, whose averages are assigned within the compiled part of a step
from tfhvae import training

for jit_compile in (False, True):
    keras.utils.set_random_seed(1)
    images = np.random.default_rng(0).uniform(size=[24, 4, 4, 1]).astype(np.float32)
    with strategy.scope():
        model = models.LadderVAE((4, 4, 1), latent_dims=(3, 2), hidden_units=(6, 5))
        model.compile(
            keras.optimizers.Adam(0.01), objectives.Objective(), jit_compile=jit_compile
        )
    statistics = training.batch_statistics(model)
    before = [v.numpy() for v in statistics]
    batches = pipeline.training_batches(images, 8, 0)
    model.fit(
        hardware.for_replicas(strategy, batches, endless=True), steps_per_epoch=3, verbose=0
    )
    after = [v.numpy() for v in statistics]
    training.recalibrate(model, images, batch_size=8)
    local = [
        [part.numpy().tolist() for part in strategy.experimental_local_results(v.value)]
        for v in [*statistics, *model.trainable_variables]
    ]
    one = models.LadderVAE((4, 4, 1), latent_dims=(3, 2), hidden_units=(6, 5))
    for variable, value in zip(one.weights, model.weights):
        variable.assign(value.numpy())
    training.recalibrate(one, images, batch_size=8)
    found[f"normalized/{jit_compile}"] = {
        "followed": [bool(np.all(a != b)) for a, b in zip(before, after)],
        "finite": all(bool(np.isfinite(a).all()) for a in after),
        "local": local,
        "one": [v.numpy().tolist() for v in training.batch_statistics(one)],
    }

# The parts of a batch
batches = tf.data.Dataset.range(21).batch(8)
found["parts"] = [
    [part.numpy().tolist() for part in strategy.experimental_local_results(batch)]
    for batch in hardware.for_replicas(strategy, batches)
]
print("FOUND" + json.dumps(found))
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ
        | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(ROOT)}
        | {"TF_NUM_INTRAOP_THREADS": "1"}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """`(output of the process with two replicas, outputs of the workers, their run folder)`."""
    folder = tmp_path_factory.mktemp("distribute")
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    command = ["run_experiment.py", "--model=vae", "--distribute=multi_worker", "--nojit_compile"]
    command += [f"--workdir={folder / 'workers'}"]
    command += [f"--config.{name}={value}" for name, value in FIELDS.items()]
    started = [start(["-c", TWO_REPLICAS, str(folder / "mirrored"), json.dumps(FIELDS)])] + [
        start(
            command,
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            ),
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, output in zip(started, outputs):
        assert process.returncode == 0, output
    return outputs[0], outputs[1:], folder / "workers"


@pytest.fixture(scope="module")
def mirrored(processes):
    return json.loads(processes[0].split("FOUND")[1])


def rows(path):
    with open(path, encoding="utf-8") as file:
        names, *lines = (line.split(",") for line in file.read().splitlines())
    return [dict(zip(names, map(float, line))) for line in lines]


def test_replicas_keep_the_same_weights(mirrored):
    assert mirrored["replicas"] == 2
    assert mirrored["weights_differ_by"] == 0.0


def test_a_mirrored_run_learns(mirrored):
    bounds = [row["bound"] for row in mirrored["history"]]
    assert len(bounds) == 2 and bounds[-1] > bounds[0] + 1.0


def test_two_replicas_compute_what_one_device_computes(mirrored):
    """Given the same noise: gradients, limited by their global norm, and every mean, with batches
    that cannot be halved and a replica that is left without images."""
    compare(mirrored["one"], mirrored["two"])


def test_two_replicas_learn_from_labels_as_one_device_does(mirrored):
    one, two = mirrored["one with labels"], mirrored["two with labels"]
    assert {"cross_entropy", "bound_labelled", "val_error_percent"} <= one.keys()
    compare(one, two)
    assert "expected multiples of 2, the number of replicas" in mirrored["refused"]
    assert "99 unlabelled and 50 labelled" in mirrored["refused"]


def compare(one, two):
    assert one.keys() == two.keys()
    assert max(one["gradient_norm"]) > 1.0
    for name in one:
        for a, b in zip(one[name], two[name], strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_replicas_follow_batch_statistics(mirrored, jit_compile):
    """In every step; recalibrated, they are those of one device with the same weights."""
    found = mirrored[f"normalized/{jit_compile}"]
    assert found["finite"] and np.mean(found["followed"]) > 0.9
    for first, second in found["local"]:
        assert first == second
    for (ours, _), expected in zip(found["local"], found["one"]):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_replicas_get_all_of_every_batch_once(mirrored):
    assert mirrored["parts"] == [
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        [[8, 9, 10, 11], [12, 13, 14, 15]],
        [[16, 17], [18, 19, 20]],
    ]


def test_two_workers_compute_what_two_replicas_of_one_process_compute(processes, mirrored):
    written = rows(processes[2] / "metrics.csv")
    assert len(written) == len(mirrored["history"])
    for ours, theirs in zip(written, mirrored["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3)


def test_two_workers_are_one_run(processes):
    _, outputs, folder = processes
    written = rows(folder / "metrics.csv")
    assert [row["epoch"] for row in written] == list(range(1, len(written) + 1))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epochs"] == len(written)
    for output in outputs:  # the one that writes nothing reports the same
        assert f"{summary['test/log_likelihood']:.2f} ±" in output
        assert "Traceback" not in output
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert not [path for path in folder.rglob(".*")], "temporary files are left"
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["epoch-00001.npz", "epoch-00002.npz"]


def test_only_the_chief_writes_and_all_stop_together(tmp_path, seeded):
    import keras

    from tfhvae import models, objectives, training

    model = models.VAE((4, 4, 1), "bernoulli", latent_dim=2, hidden_units=(4,))
    model.compile(keras.optimizers.Adam(1e3), objectives.Objective(), jit_compile=False)
    recorders = []
    for is_chief in (True, False):
        folder = tmp_path / str(is_chief)
        folder.mkdir()
        recorders.append(
            training.Recorder(
                training.RunState(),
                training.Checkpoints(folder / "checkpoints"),
                folder / "metrics.csv",
                patience=2,
                is_chief=is_chief,
            )
        )
    x = np.random.default_rng(0).uniform(size=[8, 4, 4, 1]).astype(np.float32)
    batches = tf_batches(x)
    model.fit(batches, epochs=9, validation_data=batches, callbacks=recorders, verbose=0)
    chief, other = (recorder.state for recorder in recorders)
    chief.train_seconds = other.train_seconds = 0.0
    assert chief.stopped_early and 2 < chief.epoch < 9
    assert other.to_json() == chief.to_json()
    for a, b in zip(chief.best_weights, other.best_weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [path.name for path in (tmp_path / "False").iterdir()] == []
    assert len(rows(tmp_path / "True" / "metrics.csv")) == chief.epoch


def tf_batches(x):
    from tfhvae.data import pipeline

    return pipeline.evaluation_batches(x, 4)


CLUSTER = '{"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": '


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        '{"cluster": {}}',
        CLUSTER + '{"type": "worker", "index": 2}}',
        CLUSTER + '{"type": "worker", "index": -1}}',
        CLUSTER + '{"type": "chief", "index": 0}}',
    ],
)
def test_a_wrong_cluster_is_one_line(text, monkeypatch):
    from tfhvae import hardware

    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(RunError, match="TF_CONFIG") as caught:
        hardware.set_up(hardware.Hardware(distribute="multi_worker"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "jobs, kind, index, expected",
    [
        (["worker"], "worker", 0, True),
        (["worker"], "worker", 1, False),
        (["chief", "worker"], "chief", 0, True),
        (["chief", "worker"], "worker", 0, False),
        ([], "", None, True),
    ],
)
def test_one_process_is_the_chief(jobs, kind, index, expected):
    import types

    import tensorflow as tf

    from tfhvae import hardware

    spec = tf.train.ClusterSpec({job: ["host1:1", "host2:1"] for job in jobs})
    resolver = types.SimpleNamespace(task_type=kind, task_id=index, cluster_spec=lambda: spec)
    assert hardware.is_chief(types.SimpleNamespace(cluster_resolver=resolver)) is expected


def test_one_device_keeps_its_batches():
    import tensorflow as tf

    from tfhvae import hardware

    batches = tf.data.Dataset.range(4).batch(2)
    assert hardware.for_replicas(tf.distribute.get_strategy(), batches) is batches
