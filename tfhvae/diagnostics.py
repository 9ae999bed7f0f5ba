"""What is measured of a trace besides the bound: means over steps, KL per unit, active units, and
which variable depends on which."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

ACTIVE_UNIT_VARIANCE = (
    0.01  # Burda et al. 2016, section 5: a unit u is active when Var_x E_q[u|x] exceeds this
)
ACTIVE_UNIT_KL = 0.01  # nats; Sønderby et al. 2016a, table 2: a unit is active when its mean KL(q||p) exceeds this


class UnitStates(NamedTuple):
    """What became of the units of a latent variable, `[units]` booleans: each is one of three."""

    active: np.ndarray  # now
    died: np.ndarray  # active after an earlier epoch, not now
    never_woke: np.ndarray


def unit_states(unit_kl, threshold=ACTIVE_UNIT_KL):
    """Which units carry information after the last of some epochs.

    With beta = 0 nothing keeps a unit's KL small, so that a warm-up begins with all units active:
    those that it prunes have died.

    Args:
      unit_kl: `[epochs, units]`, mean KL(q||p) of every epoch, in nats. A KL that is known of the
        whole layer only (a mixture prior) is one unit.
      threshold: in nats; a unit above it is active.

    Raises:
      ValueError: if there is no epoch.
    """
    unit_kl = np.asarray(unit_kl)
    if unit_kl.ndim != 2 or not len(unit_kl):
        raise ValueError(
            f"expected unit_kl [epochs, units] of at least one epoch, received: {unit_kl.shape}"
        )
    was_active = unit_kl > threshold
    active, ever = was_active[-1], was_active.any(0)
    return UnitStates(active, ever & ~active, ~ever)


def layer_states(states):
    """Sorts layers as `unit_states` sorts units: `{"active", "died", "never_woke": [sites]}`.

    A layer is active with one active unit; one that is not has died if one of its units was ever
    active.

    Args:
      states: `{site: UnitStates}`.
    """
    sites = {name: [] for name in UnitStates._fields}
    for site, units in states.items():
        first = next(name for name, those in units._asdict().items() if those.any())
        sites[first].append(site)
    return sites


class Dependencies(NamedTuple):
    """The factors of a generative and of an inference model: `{variable: [its parents]}`. Variables
    are the sites from the top down, "y" for a class, and "x"."""

    p: dict
    q: dict


def dependencies(model, x):
    """Reads off a model on what the distribution of each variable depends, in p and in q.

    With all variables held at their values, log p and log q of one of them change with another only
    if that is among its parents: gradients tell, and of a class, which has none, another class. So
    it is what the weights do that counts; a parent whose weights are zero is none.

    Args:
      x: `[B, *event]`, a few images.
    """
    x = tf.convert_to_tensor(x, tf.float32)
    noise, classes = model.noise(0, len(x)), getattr(model, "num_classes", None)

    def trace(y, values):
        label = {} if classes is None else {"y": tf.fill([len(x)], y)}
        return model.trace(x, noise=noise, values=values, **label)

    def densities(trace):
        p, q = (
            {name: getattr(site, density) for name, site in trace.sites.items()}
            for density in ("log_p", "log_q")
        )
        if classes is not None:
            p["y"], q["y"] = trace.label.log_p, trace.label.log_q
        return {**p, "x": trace.log_px}, q

    values = {name: tf.identity(site.value) for name, site in trace(0, None).sites.items()}
    variables = {**values, "x": x}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(list(variables.values()))
        found = densities(trace(0, values))
    others = densities(trace(1, values)) if classes is not None else found

    def parents(name, density, other):
        gradients = tape.gradient(density, variables)
        given = {
            variable
            for variable, gradient in gradients.items()
            if variable != name and gradient is not None and np.any(gradient)
        }
        if name != "y" and not np.allclose(density, other, rtol=1e-5, atol=1e-6):
            given.add("y")
        return [variable for variable in order if variable in given]

    order = list(dict.fromkeys([*model.generation_order, *values]))
    order += ["x"] if classes is None else ["y", "x"]
    return Dependencies(
        *(
            {name: parents(name, part[name], other[name]) for name in order if name in part}
            for part, other in zip(found, others, strict=True)
        )
    )


class StepMeans(keras.metrics.Metric):
    """Means over steps of named scalars and of each site's KL per unit, kept as one vector so that
    a step costs one addition.

    It also remembers the first step whose values were not all finite, and those values. Under a
    `tf.distribute` strategy every replica is given the same values, those of the whole batch.
    """

    def __init__(self, scalar_names, units, name="step_means"):
        """Args:
        scalar_names: names of the scalars, in order.
        units: `{site: number of KL units}`.
        """
        super().__init__(name=name)
        self.scalar_names = list(scalar_names)
        self.units = dict(units)
        size = len(self.scalar_names) + sum(self.units.values())
        # float64, so that the mean of a constant is that constant
        self.total = _zeros(self, (size,), "total", "float64")
        self.weight = _zeros(self, (), "weight", "float64")
        self.count = _zeros(self, (), "count", "int64")
        self.first_bad_step = _zeros(self, (), "first_bad_step", "int64")
        self.bad_values = _zeros(self, (size,), "bad_values")
        self.reset_state()

    def pack(self, scalars, unit_kl):
        """One vector of `{name: []}` and `{site: [units]}`."""
        return tf.concat(
            [tf.stack([scalars[name] for name in self.scalar_names])]
            + [unit_kl[site] for site in self.units],
            0,
        )

    def replace(self, packed, name, value):
        """`packed` with another value of the scalar `name`."""
        return tf.tensor_scatter_nd_update(packed, [[self.scalar_names.index(name)]], [value])

    def reset_state(self):
        super().reset_state()
        self.first_bad_step.assign(-1)

    def update_state(self, packed, step, weight=1.0):
        weight = tf.cast(weight, tf.float64)
        self.total.assign_add(weight * tf.cast(packed, tf.float64))
        self.weight.assign_add(weight)
        self.count.assign_add(1)
        is_bad = tf.logical_and(
            tf.logical_not(tf.reduce_all(tf.math.is_finite(packed))), self.first_bad_step.value < 0
        )
        self.first_bad_step.assign(
            tf.where(is_bad, tf.cast(step, tf.int64), self.first_bad_step.value)
        )
        self.bad_values.assign(tf.where(is_bad, packed, self.bad_values.value))

    @property
    def is_empty(self):
        """Whether nothing was added since the last reset."""
        return int(self.count.numpy()) == 0

    def _means(self):
        return tf.cast(self.total.value / tf.maximum(self.weight.value, 1e-12), tf.float32)

    def scalars(self):
        """`{name: []}`, the means so far."""
        return dict(zip(self.scalar_names, tf.unstack(self._means()[: len(self.scalar_names)])))

    def unit_kl(self):
        """`{site: [units]}`, mean KL per unit so far, in nats."""
        return _by_site(self._means()[len(self.scalar_names) :], self.units)

    def result(self):
        return self.scalars()

    def bad_terms(self):
        """Names of the scalars that were not finite at `first_bad_step`."""
        finite = tf.math.is_finite(self.bad_values.value).numpy()
        return [name for name, is_finite in zip(self.scalar_names, finite) if not is_finite]


class PosteriorMoments(keras.metrics.Metric):
    """First and second moments over examples of the posterior means, from which active units are
    counted."""

    def __init__(self, units, name="posterior_moments"):
        """Args:
        units: `{site: number of units}`.
        """
        super().__init__(name=name)
        self.units = dict(units)
        size = sum(self.units.values())
        # The variance is a difference of two sums, which of a mean far from 0 are large.
        self.first = _zeros(self, (size,), "first", "float64")
        self.second = _zeros(self, (size,), "second", "float64")
        self.examples = _zeros(self, (), "examples", "float64")

    def update_state(self, q_means):
        """`q_means`: `{site: [B, units]}`, E_q[u|x] of each example."""
        if self.units:
            examples = tf.shape(q_means[next(iter(self.units))])[0]
            self.add(*self.sums(q_means), examples)

    def sums(self, q_means):
        """Sums over examples of the posterior means and of their squares, `[units of all sites]`
        each, in float64."""
        if not self.units:
            return tf.zeros([0], tf.float64), tf.zeros([0], tf.float64)
        joined = tf.cast(tf.concat([q_means[site] for site in self.units], -1), tf.float64)
        return tf.reduce_sum(joined, 0), tf.reduce_sum(tf.square(joined), 0)

    def add(self, first, second, examples):
        """Adds sums as from `sums`, over so many examples."""
        self.first.assign_add(first)
        self.second.assign_add(second)
        self.examples.assign_add(tf.cast(examples, tf.float64))

    def variance(self):
        """`{site: [units]}`, Var_x E_q[u|x]."""
        examples = tf.maximum(self.examples.value, 1.0)
        variance = self.second.value / examples - tf.square(self.first.value / examples)
        return _by_site(tf.maximum(variance, 0.0), self.units)

    def active_units(self):
        """`{site: number of units whose variance exceeds ACTIVE_UNIT_VARIANCE}`."""
        return {
            site: int(tf.reduce_sum(tf.cast(variance > ACTIVE_UNIT_VARIANCE, tf.int32)))
            for site, variance in self.variance().items()
        }

    def result(self):
        return self.variance()


def _by_site(values, units):
    """`{site: [units]}` of the units of all sites in one vector."""
    if not units:
        return {}
    return dict(zip(units, tf.split(values, list(units.values()))))


def _zeros(metric, shape, name, dtype=None):
    """A variable of a metric that is the same on every replica: reading it costs no communication,
    so that one of several workers may read it alone."""
    return metric.add_variable(
        shape, initializer="zeros", dtype=dtype, aggregation="only_first_replica", name=name
    )
