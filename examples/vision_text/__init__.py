"""Pictures and captions in one space: a small CLIP-like model, zero-shot classification of drawn shapes."""
