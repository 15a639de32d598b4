"""SiDA in one file: its two losses and its iteration, on torch and a network of this suite alone.

    python examples/sida_in_one_file.py            # one core, minutes: it prints the FD

Zhou et al. 2024, arXiv:2410.14919. φ is the teacher, ψ the fake score with the discriminator, θ the generator. A
network is a denoiser D(x; σ, labels); ``return_flag="encoder_decoder"`` also returns the logits, which are the channel
means of its encoder's last maps. The suite adds what long trainings need: dropped NaNs, augmentation, several GPUs,
resumption. A test compares six iterations with the suite's.
"""

import copy
import dataclasses

import torch
from torch.nn.functional import one_hot, softplus

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0


@dataclasses.dataclass
class SiDA:
    """Settings; the values of SiDA on EDM's networks, but for the last four, which are the demo's."""

    alpha: float = 1.0
    init_sigma: float = 2.5
    t_max: float = 0.8
    P_mean: float = -1.2
    P_std: float = 1.2
    sigma_data: float = 0.5
    lambda_sid: float = 100.0
    betas: tuple[float, float] = (0.0, 0.999)
    lambda_adv: float = 0.3
    lambda_d: float = 2.0
    lr: float = 5e-4
    ema_half_life: float = 5_000.0


def generate(theta, z, labels, init_sigma):
    """One step from noise to images: G(z) = D_θ(σ_init z; σ_init)."""
    return theta(init_sigma * z, init_sigma, labels)


def fake_score_loss(c, psi, fake, real, labels, draws):
    """ψ learns to denoise what θ draws, and to tell it from real images."""
    sigma = (c.P_mean + c.P_std * draws["sigma_normal"]).exp()
    weight = (sigma**2 + c.sigma_data**2) / (sigma * c.sigma_data) ** 2
    noise = sigma * draws["noise"]  # the same noise for both: only the images differ
    noisy, sigmas, both = (
        torch.cat([fake + noise, real + noise]),
        torch.cat([sigma, sigma]),
        torch.cat([labels, labels]),
    )
    # Real images need logits alone, so the decoder runs for the first half.
    denoised, logits = psi(noisy, sigmas, both, return_flag="encoder_decoder", decode=len(fake))
    assert denoised.shape == fake.shape
    assert logits.shape[:2] == (2 * len(fake), 1)
    of_fake, of_real = logits.chunk(2)
    denoising = weight * (denoised - fake).square()
    discriminator = weight * (softplus(of_fake).mean() + softplus(-of_real).mean()) / 2
    return denoising.sum() + c.lambda_d * discriminator.sum()


def generator_loss(c, phi, psi, fake, labels, draws, share):
    """θ lowers the score identity loss and fools ψ; ``share`` is the adversarial part."""
    t = draws["t"] * c.t_max
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    sigma = (high + (1 - t) * (low - high)) ** RHO
    noisy = fake + sigma * draws["noise"]
    # Both networks are frozen, but gradients pass through them to the images.
    true = phi(noisy, sigma, labels)
    score, logits = psi(noisy, sigma, labels, return_flag="encoder_decoder")
    error = (fake - true).detach().abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-5)
    difference = true - score
    sid = difference * (true - fake - c.alpha * difference) / error
    # One scalar for the batch; the clamp takes the gradient from images that already look real.
    adversarial = softplus(-logits.clamp(-10, 10)).mean() / error
    pixels = fake[0].numel()
    return (1 - share) * c.lambda_sid * sid.sum() + share * c.lambda_adv * pixels * adversarial.sum()


class Training:
    """φ, ψ, θ, the average of θ, and one iteration after another."""

    def __init__(self, c, teacher):
        self.c, self.phi, self.nimg = c, teacher.eval().requires_grad_(False), 0
        # ψ and θ start as copies of the teacher: SiDA trains a denoiser on.
        self.psi, self.theta, self.ema = (copy.deepcopy(teacher) for _ in range(3))
        self.optimizers = [torch.optim.Adam(net.parameters(), c.lr, c.betas) for net in (self.psi, self.theta)]

    def step(self, net, optimizer, loss, count):
        """One step of Adam on the mean over images; ψ's gradient is clipped."""
        optimizer.zero_grad(set_to_none=True)
        (loss / count).backward()
        if net is self.psi:
            torch.nn.utils.clip_grad_value_(net.parameters(), 1.0)
        optimizer.step()

    def iteration(self, psi_batch, theta_batch, psi_draws, theta_draws, warm=True, share=0.5, half_life=None):
        """A ψ step, then a θ step through the new ψ, then the average.

        Args:
            psi_batch: Real images (N, C, H, W) in [-1, 1] and one-hot labels (N, K).
            theta_batch: Labels (N, K) of the images that θ draws in its own step.
            psi_draws: ``z`` and ``noise`` (N, C, H, W), ``sigma_normal`` (N, 1, 1, 1).
            theta_draws: ``z``, ``noise``, and ``t`` (N, 1, 1, 1), uniform in [0, 1).
            warm: Whether θ steps; in the warm-up ψ learns alone.
            share: Weight of the adversarial term; 0 in SiD's phase.
            half_life: Of the average, in images.
        """
        c, (real, labels) = self.c, psi_batch
        self.psi.train().requires_grad_(True), self.theta.eval().requires_grad_(False)
        fake = generate(self.theta, psi_draws["z"], labels, c.init_sigma)
        self.step(self.psi, self.optimizers[0], fake_score_loss(c, self.psi, fake, real, labels, psi_draws), len(real))
        if warm:
            self.psi.eval().requires_grad_(False), self.theta.train().requires_grad_(True)
            fake = generate(self.theta, theta_draws["z"], theta_batch, c.init_sigma)
            loss = generator_loss(c, self.phi, self.psi, fake, theta_batch, theta_draws, share)
            self.step(self.theta, self.optimizers[1], loss, len(real))
        beta = 0.5 ** (len(real) / max(half_life or c.ema_half_life, 1e-8))
        with torch.no_grad():
            for average, new in zip(self.ema.parameters(), self.theta.parameters()):
                average.lerp_(new, 1 - beta)
        self.nimg += len(real)


def main(total=50_000, size=32):
    """Distils the demo's teacher on 8×8 digits and prints the FD of 2,500 images."""
    import sida.eval
    from sida.data import load_dataset
    from sida.networks import load_network

    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher, _ = load_network("studies/demo/stored/teachers/digits-short/network.safetensors")
    for module in teacher.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    data = load_dataset({"kind": "digits", "name": "digits"})
    images = data.images(range(len(data))).float() / 127.5 - 1
    labels = one_hot(torch.as_tensor(data.class_indices), 10).float()
    training = Training(SiDA(), teacher)
    while training.nimg < total:
        # The rate falls to a tenth over the second half.
        factor = 1 - 0.9 * max(0, 2 * training.nimg / total - 1)
        for optimizer in training.optimizers:
            optimizer.param_groups[0]["lr"] = training.c.lr * factor
        chosen, other = torch.randint(len(images), (2, size))
        noise = lambda: torch.randn(size, 1, 8, 8)
        psi_draws = {"z": noise(), "noise": noise(), "sigma_normal": torch.randn(size, 1, 1, 1)}
        theta_draws = {"z": noise(), "noise": noise(), "t": torch.rand(size, 1, 1, 1)}
        share = 0.5 if training.nimg > 2_000 else 0.0
        warm, half_life = training.nimg > 1_000, min(5_000, 0.5 * training.nimg)
        batch = (images[chosen], labels[chosen])
        training.iteration(batch, labels[other], psi_draws, theta_draws, warm, share, half_life)
        if training.nimg % (100 * size) == 0:
            print(f"{training.nimg:,}/{total:,} images", flush=True)

    def sample(seeds):
        z = torch.stack([torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        classes = torch.tensor(list(seeds)) % 10
        with torch.no_grad():
            drawn = generate(training.ema.eval(), z, one_hot(classes, 10).float(), training.c.init_sigma)
        return (drawn * 127.5 + 128).clamp(0, 255).to(torch.uint8), classes

    print(sida.eval.score(sample, "digits", trials=1, name="SiDA").markdown())


if __name__ == "__main__":
    main()
