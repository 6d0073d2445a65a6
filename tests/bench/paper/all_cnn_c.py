"""ALL-CNN-C (Springenberg et al. 2015) as DeepOBS has it, the network of the paper's experiments."""
import torch
from torch import nn

# out channels, kernel, stride, padding, and the dropout before the layer
LAYERS = [
    (96, 3, 1, 1, 0.2), (96, 3, 1, 1, 0), (96, 3, 2, 1, 0), (192, 3, 1, 1, 0.5), (192, 3, 1, 1, 0), (192, 3, 2, 1, 0),
    (192, 3, 1, 0, 0.5), (192, 1, 1, 0, 0), (None, 1, 1, 0, 0),
]  # fmt: skip


class AllCnnC(nn.Module):
    """[B, 3, 32, 32] -> logits [B, classes]: nine convolutions conv1 to conv9, each followed by ReLU, and the mean over the
    last map (6 x 6). Dropout (.2 on the input, .5 after each stride) in training only. Weights Xavier-normal, biases 0.1.
    1,369,738 parameters with 10 classes."""

    def __init__(self, classes):
        super().__init__()
        before = 3
        for i, (channels, kernel, stride, padding, _) in enumerate(LAYERS, 1):
            layer = nn.Conv2d(before, channels or classes, kernel, stride, padding)
            nn.init.xavier_normal_(layer.weight)
            nn.init.constant_(layer.bias, 0.1)
            setattr(self, f"conv{i}", layer)
            before = channels

    def forward(self, x):
        for i, (_, _, _, _, dropout) in enumerate(LAYERS, 1):
            if self.training and dropout:
                x = nn.functional.dropout(x, dropout)
            x = torch.relu(getattr(self, f"conv{i}")(x))
        return x.mean((2, 3))
