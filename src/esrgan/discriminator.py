"""The discriminator: how real a picture looks, as one number.

The VGG-style network of SRGAN (arXiv 1609.04802, figure 4): 3x3 convolutions, every second of stride 2, and two linear
layers, here after pooling to 6 x 6, so that patches may be of any size. ESRGAN's own code has 4x4 convolutions of
stride 2 and linear layers for patches of 128 or 192 pixels.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.2
GRID = 6  # the feature maps that the linear layers read are GRID x GRID
HIDDEN = 1024


class Discriminator(nn.Module):
    """RGB in [0, 1], (N, 3, H, W) of any size -> logits (N, 1), high for real.

    Args:
        channels: Feature maps of the first convolution; the last ones have eight times as many.
        batch_norm: After every convolution, the first one too (in SRGAN and in ESRGAN's code all but the first). At
            batch 4 it lets the discriminator win, so it is off by default.
    """

    def __init__(self, channels: int = 64, batch_norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs, outputs = 3, channels
        for i in range(8):
            shrinks = i % 2 == 1
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=2 if shrinks else 1, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.LeakyReLU(NEGATIVE_SLOPE))
            inputs, outputs = outputs, 2 * outputs if shrinks else outputs
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Linear(inputs * GRID**2, HIDDEN)
        self.logit = nn.Linear(HIDDEN, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.features(image)
        # Apple's adaptive pooling takes multiples only
        on_host = x.device.type == "mps" and any(side % GRID for side in x.shape[-2:])
        x = F.adaptive_avg_pool2d(x.cpu() if on_host else x, GRID).to(image.device).flatten(1)
        return cast(Tensor, self.logit(F.leaky_relu(self.hidden(x), NEGATIVE_SLOPE)))
