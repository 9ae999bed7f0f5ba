"""The same models in straightforward eager PyTorch; `run.py` starts this file and asks for steps.

Reads numbers of steps from standard input, one per line, and answers with seconds.
"""

import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional

ENCODERS = {
    "q_z2": ((32, 7, 1), (32, 3, 2), (64, 5, 1), (64, 3, 2), (6, 3, 1)),
    "q_z1": ((32, 3, 1), (32, 3, 2), (64, 3, 1), (64, 3, 2), (6, 3, 1)),
}
LATENTS, WIDTHS = (64, 32, 16, 8, 4), (512, 256, 128, 64, 32)


class Gated(nn.Module):
    def __init__(self, h, g):
        super().__init__()
        self.h, self.g = h, g

    def forward(self, x):
        return self.h(x) * torch.sigmoid(self.g(x))


def dense(inputs, units):
    return Gated(nn.Linear(inputs, units), nn.Linear(inputs, units))


def convolutions(channels, layers):
    result = []
    for filters, kernel, stride in layers:
        h, g = (nn.Conv2d(channels, filters, kernel, stride, kernel // 2) for _ in range(2))
        result.append(Gated(h, g))
        channels = filters
    return result


class Head(nn.Module):
    def __init__(self, inputs, units=40):
        super().__init__()
        self.loc, self.log_variance = nn.Linear(inputs, units), nn.Linear(inputs, units)

    def forward(self, h):
        return self.loc(h), self.log_variance(h).clamp(-6.0, 2.0)


def log_normal(z, loc, log_variance):
    squares = (z - loc) ** 2 * torch.exp(-log_variance)
    return -0.5 * (math.log(2.0 * math.pi) + log_variance + squares).sum(-1)


def draw(loc, log_variance):
    return loc + torch.exp(0.5 * log_variance) * torch.randn_like(loc)


def log_bernoulli(x, logits):
    return -functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


class VAE(nn.Module):
    def __init__(self, vampprior):
        super().__init__()
        self.q = nn.Sequential(nn.Flatten(), dense(784, 300), dense(300, 300), Head(300))
        self.p = nn.Sequential(dense(40, 300), dense(300, 300), nn.Linear(300, 784))
        self.u = nn.Parameter(0.05 + 0.01 * torch.randn(500, 1, 28, 28)) if vampprior else None

    def forward(self, x):
        loc, log_variance = self.q(x)
        z = draw(loc, log_variance)
        if self.u is None:
            log_prior = log_normal(z, torch.zeros(40), torch.zeros(40))
        else:
            components = log_normal(z[:, None], *self.q(self.u.clamp(0.0, 1.0)))
            log_prior = torch.logsumexp(components, -1) - math.log(500)
        log_px = log_bernoulli(x.flatten(1), self.p(z))
        return log_px + log_prior - log_normal(z, loc, log_variance)


class HVAE(nn.Module):
    def __init__(self, convolutional):
        super().__init__()
        features = 294 if convolutional else 300
        if convolutional:
            q_z2, q_z1 = (
                nn.Sequential(*convolutions(1, ENCODERS[name]), nn.Flatten())
                for name in ("q_z2", "q_z1")
            )
            self.p_x = nn.Sequential(
                dense(600, 784),
                nn.Unflatten(1, (1, 28, 28)),
                *convolutions(1, [(64, 3, 1)] * 4),
                nn.Conv2d(64, 1, 1),
                nn.Flatten(),
            )
        else:
            q_z2 = nn.Sequential(nn.Flatten(), dense(784, 300), dense(300, 300))
            q_z1 = nn.Sequential(nn.Flatten(), dense(784, 300))
            self.p_x = nn.Sequential(dense(600, 300), nn.Linear(300, 784))
        self.q_z2 = nn.Sequential(q_z2, Head(features))
        self.q_z1_x, self.q_z1_z2 = q_z1, dense(40, features)
        self.q_z1 = nn.Sequential(dense(2 * features, 300), Head(300))
        self.p_z1 = nn.Sequential(dense(40, 300), dense(300, 300), Head(300))
        self.p_x_z1, self.p_x_z2 = dense(40, 300), dense(40, 300)

    def forward(self, x):
        q_z2 = self.q_z2(x)
        z2 = draw(*q_z2)
        q_z1 = self.q_z1(torch.cat([self.q_z1_x(x), self.q_z1_z2(z2)], -1))
        z1 = draw(*q_z1)
        logits = self.p_x(torch.cat([self.p_x_z1(z1), self.p_x_z2(z2)], -1))
        return (
            log_bernoulli(x.flatten(1), logits)
            + log_normal(z1, *self.p_z1(z2))
            + log_normal(z2, torch.zeros(40), torch.zeros(40))
            - log_normal(z1, *q_z1)
            - log_normal(z2, *q_z2)
        )


def normalized(inputs, units):
    return [
        nn.Linear(inputs, units, bias=False),
        nn.BatchNorm1d(units, eps=1e-3, momentum=0.01),
    ]


def leaky_layers(inputs, units):
    return nn.Sequential(
        *normalized(inputs, units),
        nn.LeakyReLU(0.1),
        *normalized(units, units),
        nn.LeakyReLU(0.1),
    )


class NormalizedHead(nn.Module):
    def __init__(self, inputs, units):
        super().__init__()
        self.layer = nn.Sequential(*normalized(inputs, 2 * units))

    def forward(self, h):
        loc, a = self.layer(h).chunk(2, -1)
        return loc, functional.softplus(a)


class LadderVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.d = nn.ModuleList(map(leaky_layers, (784, *WIDTHS[:-1]), WIDTHS))
        self.q = nn.ModuleList(map(NormalizedHead, WIDTHS, LATENTS))
        self.p = nn.ModuleList(
            nn.Sequential(leaky_layers(above, width), NormalizedHead(width, units))
            for above, width, units in zip(LATENTS[1:], WIDTHS[1:], LATENTS)
        )
        self.p_x = nn.Sequential(leaky_layers(64, 512), nn.Linear(512, 784))

    def forward(self, x):
        x = h = x.flatten(1)
        upward = []
        for d, q in zip(self.d, self.q):
            h = d(h)
            upward.append(q(h))
        *upward, (loc, variance) = upward
        p_loc, p_variance = torch.zeros_like(loc), torch.ones_like(variance)
        bound = 0.0
        while True:
            z = draw(loc, variance.log())
            bound = bound + log_normal(z, p_loc, p_variance.log())
            bound = bound - log_normal(z, loc, variance.log())
            if not upward:
                return bound + log_bernoulli(x, self.p_x(z))
            loc, variance = upward.pop()
            p_loc, p_variance = self.p[len(upward)](z)
            precision, p_precision = 1.0 / variance, 1.0 / p_variance
            variance = 1.0 / (precision + p_precision)
            loc = variance * (loc * precision + p_loc * p_precision)


def main(name, batch_size):
    model = {
        "vae": lambda: VAE(False),
        "vampprior": lambda: VAE(True),
        "hvae": lambda: HVAE(False),
        "conv_hvae": lambda: HVAE(True),
        "ladder_vae": LadderVAE,
    }[name]()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    means = torch.rand(10 * batch_size, 1, 28, 28)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            x = torch.bernoulli(means[torch.randint(len(means), (batch_size,))])
            loss = -model(x).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
