"""The study: networks, lesions, patching and brains in real trained models; ``python -m benchmarks.study --help``."""
