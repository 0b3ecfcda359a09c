"""The batch-size study: what many negatives do, what a large optimiser batch does, what each costs.

Every run is an ordinary one of a recipe, with a batch, a group of negatives, an objective, a rule
for the learning rate and a seed of its own, and sees the same number of examples. Every run is a
line of a file, and the report is made from those lines alone.
"""
