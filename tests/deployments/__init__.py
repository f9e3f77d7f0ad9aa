"""Small deployments whose traces show one symptom each: what rules must find there, and what they must not."""
