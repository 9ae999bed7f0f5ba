"""The variational auto-encoder with one latent variable.

    p(x, z) = p(x|z) p(z)        q(z|x) = N(z; mu(x), sigma²(x))

With a standard prior this is Kingma & Welling's VAE, trained with several importance samples Burda
et al.'s IWAE, and with p(z) = 1/C sum_c q(z|u_c) Tomczak & Welling's VampPrior VAE.
"""

import keras

from tfhvae.layers import MLP, GaussianHead
from tfhvae.layers.dense import he_normal
from tfhvae.models import parts
from tfhvae.models.base import Generation, LatentVariableModel, stateless_seed
from tfhvae.traces import Trace, draw


@keras.saving.register_keras_serializable(package="tfhvae")
class VAE(LatentVariableModel):
    """VAE, IWAE and VampPrior VAE with dense networks.

    Args:
      event_shape: `(height, width, channels)`.
      likelihood: "bernoulli", "gaussian" or "discretized_logistic".
      latent_dim: units of z.
      hidden_units: of the encoder, first layer first; the decoder has them in reverse.
      gated: gated dense layers (Tomczak & Welling) instead of `activation`.
      activation: of the hidden layers where they are not gated; else nothing but "relu" is taken.
      prior: "standard", "mixture" or "vampprior".
      num_components, pseudo_input_init, train_pseudo_inputs: of the prior, see `parts.Prior`.
      log_variance_limits: of q(z|x).
      logit_limit: clips Bernoulli logits; None does not.

    Raises:
      ValueError: for a word that is not known, or an activation of gated layers.

    Sites: `z1` `[S, B, latent_dim]`.
    """

    def __init__(
        self,
        event_shape,
        likelihood="bernoulli",
        latent_dim=40,
        hidden_units=(300, 300),
        gated=True,
        activation="relu",
        prior="standard",
        num_components=500,
        pseudo_input_init=(0.05, 0.01),
        train_pseudo_inputs=True,
        log_variance_limits=(-6.0, 2.0),
        logit_limit=None,
        name="vae",
        **kwargs,
    ):
        super().__init__(event_shape, name=name, **kwargs)
        if gated and activation != "relu":
            raise ValueError(
                "expected gated=False where there is an activation, as gated layers have none. "
                f"Received: gated={gated}, activation={activation!r}"
            )
        self.config = {
            "likelihood": parts.check_choice("likelihood", likelihood, parts.LIKELIHOODS),
            "latent_dim": latent_dim,
            "hidden_units": list(hidden_units),
            "gated": gated,
            "activation": activation,
            "prior": prior,
            "num_components": num_components,
            "pseudo_input_init": list(pseudo_input_init),
            "train_pseudo_inputs": train_pseudo_inputs,
            "log_variance_limits": list(log_variance_limits),
            "logit_limit": logit_limit,
        }
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.logit_limit = logit_limit
        dense = {
            "gated": gated,
            "activation": None if gated else activation,
            "kernel_initializer": he_normal() if gated else None,
        }
        pixels = self.event_shape[0] * self.event_shape[1] * self.event_shape[2]
        self.encoder = MLP(hidden_units, **dense, name="encoder")
        self.posterior = GaussianHead(
            latent_dim,
            "clipped_log_variance",
            log_variance_limits,
            kernel_initializer=he_normal(),
            name="posterior",
        )
        self.decoder = MLP(hidden_units[::-1], **dense, name="decoder")
        self.pixels = keras.layers.Dense(
            pixels * parts.NUM_PARAMETERS[likelihood],
            kernel_initializer=he_normal(),
            dtype=self.dtype_policy,
            name="pixels",
        )
        self.prior = parts.Prior(
            prior,
            latent_dim,
            self.event_shape,
            num_components,
            pseudo_input_init,
            train_pseudo_inputs,
            name="prior",
        )
        self.build_from_event_shape()

    @property
    def noise_shapes(self):
        return {"z1": (self.latent_dim,)}

    def encode(self, x, training=False):
        """`(loc, scale)` of q(z|x), each `[B, latent_dim]`."""
        return self.posterior(self.encoder(parts.flatten_event(x), training=training))

    def decode(self, latents, training=False):
        h = self.decoder(latents["z1"], training=training)
        return parts.image_distribution(
            parts.unflatten_event(self.pixels(h), self.event_shape, self.likelihood),
            self.likelihood,
            self.logit_limit,
        )

    def trace(self, x, num_samples=1, noise=None, values=None, training=False):
        x, noise = self.images_and_noise(x, noise, num_samples)
        values = values or {}
        prior = self.prior.distribution(lambda u: self.encode(u, training))
        z1 = draw(self.encode(x, training), prior, noise["z1"], values.get("z1"))
        return Trace({"z1": z1}, log_px=self.decode({"z1": z1.value}, training).log_prob(x))

    def generate(self, num_samples=1, latents=None, seed=None):
        seed = self.next_seed() if seed is None else seed
        latents, num_samples = self.given_latents(latents, num_samples)
        if "z1" not in latents:
            latents["z1"] = self.prior.sample(
                num_samples, self.latent_dim, self.encode, stateless_seed(seed, 0)
            )
        p = self.decode(latents)
        return Generation(*parts.mean_and_draw(p, stateless_seed(seed, 1)), latents)
