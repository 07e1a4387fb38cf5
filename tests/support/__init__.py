"""What tests share: fake runs, Ray clusters, checkpoints."""
