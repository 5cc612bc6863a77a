"""Post-training: objectives and batch sources for SFT, interpolation and policy gradients. None of them owns a loop."""
