"""What makes a good second view of a text: SimCSE's comparisons, repeated with seeds and spread.

Augmentations against dropout alone, dropout rates, temperatures (Gao et al. 2021, arXiv 2104.08821,
tables 1, 4 and D.1), and how alignment and uniformity move while each is trained (its figure 3).
"""
