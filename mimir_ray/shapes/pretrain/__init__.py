"""Makes the small models of the shapes world from nothing: tokenizers, LLM, T5, VAE and the T5-only base.

The finished Mimir that ships beside them is not made here: it is what the road itself (curate, precompute, train)
exports when it starts from this base.
"""
