-- One row: one scope (`fact_scopes`) and its facts by the cost model beyond the steps as they were, in the names of
-- `vtprof_rules/facts.toml`; filled by `counterfactuals.py`, without it no model is known.
CREATE TABLE facts_counterfactual (
    scope INTEGER,
    capped_saved_ms_mean DOUBLE,
    prefill_saved_ms_keep50_mean DOUBLE,
    prefill_saved_ms_keep25_mean DOUBLE,
    encode_attention_share DOUBLE,
    moe_ms DOUBLE,
    verify_cost_ratio DOUBLE
);
