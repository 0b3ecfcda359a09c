"""What is done to a frozen encoder's vectors: whitening, and a flow to a normal distribution."""
