"""AlexNet and its half for CIFAR, under the parameter names of the DeGAN zoo.

Krizhevsky et al. 2012, ImageNet Classification with Deep Convolutional Neural Networks, as Nayak et al. shrink it to
32x32 images in ZSKD (2019, arXiv:1905.08114), DeGAN (2020, arXiv:1912.11960) and their work on arbitrary transfer
sets: five convolutions (48, 128, 192, 192, 128 channels) and fully connected layers 1152-512-256-classes with
dropout. The half has half of every width: 24, 64, 96, 96, 64 channels and 576-256-128-classes.

Each layer but the last is batch-normalised, after its ReLU and pooling or dropout, and the first two have local
response normalisation as well: so does the published code of ZSKD and DeGAN. The parameters that ZSKD prints cannot
tell. Its 1.65e6 for AlexNet is the 1,654,800 weights alone; with biases we have 1,656,266 and with BN 1,659,178. Its
7.23e5 for the half is met by no halving: we have 415,240 weights, 417,434 parameters in all. But 723,456 is the
number of weights in the fully connected layers of the *whole* AlexNet (1152 x 512 + 512 x 256 + 256 x 10): we take it
for a slip, and the code for the network. MAD's AlexNet "does not have any BatchNorm layer" because it is the ImageNet
one, torchvision's.
"""

from torch import Tensor, nn
from torch.nn import functional as F

BN_EPS = 1e-3  # TensorFlow's default, which DeGAN carries over from ZSKD
FLAT = 9  # 3x3 positions are left of 32x32 when flattened


def local_response_norm(x_BCHW: Tensor) -> Tensor:
    """Divide by (1 + 1e-4 m)^0.75, m the mean square of a channel and the one before it (zero before the first).

    The torch.nn.LocalResponseNorm(2) of DeGAN (ZSKD's TensorFlow code: a sum over five channels), (B, C, H, W) -> the
    same, without its 3-D average pooling, whose gradient on a GPU adds in no fixed order.
    """
    square_BCHW = F.pad(x_BCHW * x_BCHW, (0, 0, 0, 0, 1, 0))
    mean_BCHW = (square_BCHW[:, 1:] + square_BCHW[:, :-1]) / 2
    return x_BCHW / (1 + 1e-4 * mean_BCHW).pow(0.75)


def _pool(x_BCHW: Tensor) -> Tensor:
    return F.max_pool2d(x_BCHW, 3, stride=2)


class AlexNet(nn.Module):
    """AlexNet with `widths` channels in its five convolutions and two hidden layers, for images of 32 pixels a side.

    Sides from 31 to 38 leave the 3x3 positions that the first fully connected layer reads; others fail there. Fresh
    weights as torch makes them, biases 0, and 1 in convolutions 2, 4 and 5, as in DeGAN; BN 1 and 0.
    """

    def __init__(self, widths: tuple[int, int, int, int, int, int, int], *, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 5, padding=2)
        self.batch_norm1 = nn.BatchNorm2d(widths[0], eps=BN_EPS)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5, padding=2)
        self.batch_norm2 = nn.BatchNorm2d(widths[1], eps=BN_EPS)
        self.conv3 = nn.Conv2d(widths[1], widths[2], 3, padding=1)
        self.batch_norm3 = nn.BatchNorm2d(widths[2], eps=BN_EPS)
        self.conv4 = nn.Conv2d(widths[2], widths[3], 3, padding=1)
        self.batch_norm4 = nn.BatchNorm2d(widths[3], eps=BN_EPS)
        self.conv5 = nn.Conv2d(widths[3], widths[4], 3, padding=1)
        self.batch_norm5 = nn.BatchNorm2d(widths[4], eps=BN_EPS)
        self.fc1 = nn.Linear(FLAT * widths[4], widths[5])
        self.batch_norm6 = nn.BatchNorm1d(widths[5], eps=BN_EPS)
        self.fc2 = nn.Linear(widths[5], widths[6])
        self.batch_norm7 = nn.BatchNorm1d(widths[6], eps=BN_EPS)
        self.fc3 = nn.Linear(widths[6], num_classes)
        self.drop = nn.Dropout(0.5)
        if not self.fc3.weight.is_meta:  # there initialising would load torch's compiler: 1 s
            self._initialise_biases()

    def _initialise_biases(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.constant_(module.bias, 1 if module in {self.conv2, self.conv4, self.conv5} else 0)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits before softmax, logits_BK, of normalised float images (B, 3, 32, 32)."""
        maps_BCHW = self.batch_norm1(_pool(local_response_norm(F.relu(self.conv1(images_BCHW)))))
        maps_BCHW = self.batch_norm2(_pool(local_response_norm(F.relu(self.conv2(maps_BCHW)))))
        maps_BCHW = self.batch_norm3(F.relu(self.conv3(maps_BCHW)))
        maps_BCHW = self.batch_norm4(F.relu(self.conv4(maps_BCHW)))
        maps_BCHW = self.batch_norm5(_pool(F.relu(self.conv5(maps_BCHW))))
        hidden_BD = self.batch_norm6(self.drop(F.relu(self.fc1(maps_BCHW.flatten(1)))))
        hidden_BD = self.batch_norm7(self.drop(F.relu(self.fc2(hidden_BD))))
        logits_BK: Tensor = self.fc3(hidden_BD)
        return logits_BK
