"""The yardstick: the same models written straight from the papers, trained by a plain Keras `fit`.

One `Dense` or `Conv2D` of double width per gated layer, densities written out, the VampPrior's
mixture formed component by component, batch normalisation by the stock layer. No XLA, one step per
call.
"""

import math

import keras
import tensorflow as tf

ENCODERS = {
    "q_z2": ((32, 7, 1), (32, 3, 2), (64, 5, 1), (64, 3, 2), (6, 3, 1)),
    "q_z1": ((32, 3, 1), (32, 3, 2), (64, 3, 1), (64, 3, 2), (6, 3, 1)),
}
LATENTS, WIDTHS = (64, 32, 16, 8, 4), (512, 256, 128, 64, 32)


class Gated(keras.layers.Layer):
    """`h * sigmoid(g)`, both halves from one layer of double width."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        h, g = tf.split(self.layer(x), 2, axis=-1)
        return h * tf.sigmoid(g)


def dense(units):
    return Gated(keras.layers.Dense(2 * units))


def convolution(filters, kernel, stride=1):
    return Gated(keras.layers.Conv2D(2 * filters, kernel, stride, padding="same"))


class Head(keras.layers.Layer):
    """Mean and log-variance."""

    def __init__(self, units):
        super().__init__()
        self.loc, self.log_variance = keras.layers.Dense(units), keras.layers.Dense(units)

    def call(self, h):
        return self.loc(h), tf.clip_by_value(self.log_variance(h), -6.0, 2.0)


def log_normal(z, loc, log_variance):
    squares = tf.square(z - loc) * tf.exp(-log_variance)
    return -0.5 * tf.reduce_sum(math.log(2.0 * math.pi) + log_variance + squares, -1)


def draw(loc, log_variance):
    return loc + tf.exp(0.5 * log_variance) * tf.random.normal(tf.shape(loc))


def log_bernoulli(x, logits):
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits)
    return -tf.reduce_sum(losses, -1)


class Plain(keras.Model):
    """What the models share: the training step."""

    def __init__(self):
        super().__init__()
        self.mean_loss = keras.metrics.Mean(name="loss")

    def train_step(self, x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.bound(x))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        self.mean_loss.update_state(loss)
        return {"loss": self.mean_loss.result()}


class PlainVAE(Plain):
    """VAE, with a VampPrior of 500 components or a standard prior."""

    def __init__(self, vampprior):
        super().__init__()
        self.q = keras.Sequential([keras.layers.Flatten(), dense(300), dense(300), Head(40)])
        self.p = keras.Sequential([dense(300), dense(300), keras.layers.Dense(784)])
        self.u = None
        if vampprior:
            self.u = self.add_weight(
                shape=(500, 28, 28, 1), initializer=keras.initializers.RandomNormal(0.05, 0.01)
            )

    def bound(self, x):
        loc, log_variance = self.q(x)
        z = draw(loc, log_variance)
        if self.u is None:
            log_prior = log_normal(z, tf.zeros([40]), tf.zeros([40]))
        else:
            components = log_normal(z[:, tf.newaxis], *self.q(tf.clip_by_value(self.u, 0.0, 1.0)))
            log_prior = tf.reduce_logsumexp(components, -1) - math.log(500)
        log_px = log_bernoulli(tf.reshape(x, [-1, 784]), self.p(z))
        return log_px + log_prior - log_normal(z, loc, log_variance)


class PlainHVAE(Plain):
    """Two-level HVAE with a standard prior, dense or convolutional."""

    def __init__(self, convolutional):
        super().__init__()
        if convolutional:
            q_z2, q_z1 = (
                keras.Sequential(
                    [*(convolution(*c) for c in ENCODERS[name]), keras.layers.Flatten()]
                )
                for name in ("q_z2", "q_z1")
            )
        else:
            q_z2 = keras.Sequential([keras.layers.Flatten(), dense(300), dense(300)])
            q_z1 = keras.Sequential([keras.layers.Flatten(), dense(300)])
        self.q_z2 = keras.Sequential([q_z2, Head(40)])
        self.q_z1_x, self.q_z1_z2 = q_z1, dense(294 if convolutional else 300)
        self.q_z1 = keras.Sequential([dense(300), Head(40)])
        self.p_z1 = keras.Sequential([dense(300), dense(300), Head(40)])
        self.p_x_z1, self.p_x_z2 = dense(300), dense(300)
        if convolutional:
            self.p_x = keras.Sequential(
                [
                    dense(784),
                    keras.layers.Reshape((28, 28, 1)),
                    *(convolution(64, 3) for _ in range(4)),
                    keras.layers.Conv2D(1, 1),
                    keras.layers.Flatten(),
                ]
            )
        else:
            self.p_x = keras.Sequential([dense(300), keras.layers.Dense(784)])

    def bound(self, x):
        q_z2 = self.q_z2(x)
        z2 = draw(*q_z2)
        q_z1 = self.q_z1(tf.concat([self.q_z1_x(x), self.q_z1_z2(z2)], -1))
        z1 = draw(*q_z1)
        logits = self.p_x(tf.concat([self.p_x_z1(z1), self.p_x_z2(z2)], -1))
        return (
            log_bernoulli(tf.reshape(x, [-1, 784]), logits)
            + log_normal(z1, *self.p_z1(z2))
            + log_normal(z2, tf.zeros([40]), tf.zeros([40]))
            - log_normal(z1, *q_z1)
            - log_normal(z2, *q_z2)
        )


def normalized(units):
    return keras.Sequential(
        [keras.layers.Dense(units, use_bias=False), keras.layers.BatchNormalization()]
    )


def leaky_layers(units):
    """Two normalised layers with leaky rectifiers."""
    layers = []
    for _ in range(2):
        layers += [normalized(units), keras.layers.LeakyReLU(negative_slope=0.1)]
    return keras.Sequential(layers)


class NormalizedHead(keras.layers.Layer):
    """Mean and variance, from one normalised product."""

    def __init__(self, units):
        super().__init__()
        self.layer = normalized(2 * units)

    def call(self, h):
        loc, a = tf.split(self.layer(h), 2, axis=-1)
        return loc, tf.nn.softplus(a)


class PlainLadderVAE(Plain):
    """Ladder VAE with five layers, all of them batch-normalised but the output."""

    def __init__(self):
        super().__init__()
        self.d = [leaky_layers(width) for width in WIDTHS]
        self.q = [NormalizedHead(units) for units in LATENTS]
        self.p = [
            keras.Sequential([leaky_layers(width), NormalizedHead(units)])
            for width, units in zip(WIDTHS[1:], LATENTS)
        ]
        self.p_x = keras.Sequential([leaky_layers(512), keras.layers.Dense(784)])

    def bound(self, x):
        x = h = tf.reshape(x, [-1, 784])
        upward = []
        for d, q in zip(self.d, self.q):
            h = d(h, training=True)
            upward.append(q(h, training=True))
        *upward, (loc, variance) = upward
        p_loc, p_variance = tf.zeros_like(loc), tf.ones_like(variance)
        terms = []
        while True:
            z = draw(loc, tf.math.log(variance))
            terms.append(log_normal(z, p_loc, tf.math.log(p_variance)))
            terms.append(-log_normal(z, loc, tf.math.log(variance)))
            if not upward:
                break
            loc, variance = upward.pop()
            p_loc, p_variance = self.p[len(upward)](z, training=True)
            precision, p_precision = 1.0 / variance, 1.0 / p_variance
            variance = 1.0 / (precision + p_precision)
            loc = variance * (loc * precision + p_loc * p_precision)
        return log_bernoulli(x, self.p_x(z, training=True)) + tf.add_n(terms)


def build(name):
    """The compiled model of one row of the table."""
    model = {
        "vae": lambda: PlainVAE(False),
        "vampprior": lambda: PlainVAE(True),
        "hvae": lambda: PlainHVAE(False),
        "conv_hvae": lambda: PlainHVAE(True),
        "ladder_vae": PlainLadderVAE,
    }[name]()
    model.compile(keras.optimizers.Adam(5e-4), jit_compile=False)
    return model
