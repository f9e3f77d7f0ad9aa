-- One row: one resource, and what its process's model and device are by the model's config and the device table; filled by
-- `model_sizes.py`, without it no model is known.
CREATE TABLE model_sizes (
    resource_id UBIGINT,            -- row of `resources`
    weight_dtype VARCHAR,           -- of the language model's weights: bfloat16, fp8, int4, ...
    weight_bytes DOUBLE,            -- all weights of a replica, in their data types [B]
    encoder_weight_bytes DOUBLE,    -- of which vision and audio towers with adapters, once [B]; 0: there is no tower
    weight_value_bytes DOUBLE,      -- of one weight of the language model's layers [B]
    kv_value_bytes DOUBLE,          -- of one value of the KV cache [B]
    power_limit_mw DOUBLE,          -- power limit of one device as shipped [mW]; NULL where the device is not in the table
    fp8_peak_ratio DOUBLE,          -- its dense peak in FP8 over that in 16 bits; 0 where it has none, NULL where not known
    int8_peak_ratio DOUBLE,         -- likewise in INT8; NULL where it has none, too
    fp4_peak_ratio DOUBLE           -- likewise in 4-bit floats; 0 where it has none
);
