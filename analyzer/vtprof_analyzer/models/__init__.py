"""Models: from a Hugging Face config to the sizes that the cost model works with."""
