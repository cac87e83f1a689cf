"""Your own network and images: train in your own loop with MACER's loss, certify a batch, then a test set, and plot.

Takes some seconds on a laptop: python examples/own_classifier.py
"""

import torch
from sklearn.datasets import load_digits

import macer

pixels, classes = load_digits(return_X_y=True)
images, labels = torch.tensor(pixels / 16).float().view(-1, 1, 8, 8), torch.tensor(classes)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
objective = macer.objectives.Macer(sigma=0.25, gauss_num=8)
optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
for _ in range(100):
    batch = torch.randint(1297, (64,))
    optimizer.zero_grad()
    objective(network, images[batch], labels[batch]).total.backward()
    optimizer.step()
print(macer.SmoothedClassifier(network, sigma=0.25, num_classes=10).certify(images[-8:], n=1000).frame())
results = macer.certify(network, (images[1297::25], labels[1297::25]), sigma=0.25, n=1000)
results.plot().savefig("own-classifier.png")
