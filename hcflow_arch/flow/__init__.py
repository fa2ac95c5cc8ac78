"""The flow: layers, couplings, subnets, priors, and what they start from."""
