"""The cross-entropy of the soft smoothed classifier, which training lowers and attacks raise."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def smoothed_loss(logits: Float[Tensor, "batch k classes"], labels: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return -log((1/k) sum_j softmax(z_j)_y) of each image: the cross-entropy of the soft smoothed classifier.

    Zhai et al. 2020, equation 12, with Algorithm 1's sample mean. Exact where that mean underflows and where it rounds
    to 1: softmax(z)_y is the sigmoid of y's log-odds against the other classes, and 1 - softmax(z)_y of minus those.
    """
    is_label = F.one_hot(labels, logits.shape[2]).bool().unsqueeze(1)
    label = logits.gather(2, labels.view(-1, 1, 1).expand(-1, logits.shape[1], 1)).squeeze(2)
    log_odds = label - logits.masked_fill(is_label, -math.inf).logsumexp(2)
    complement = torch.sigmoid(-log_odds).mean(1)
    log_p = F.logsigmoid(log_odds).logsumexp(1) - math.log(logits.shape[1])
    return torch.where(complement < 0.5, -torch.log1p(-complement.clamp(max=0.5)), -log_p)
