"""Cost model: FLOPs, bytes and floor time of engine steps, from a model's sizes and the steps' composition.

Pure functions on numpy arrays, one entry per step or folded window::

    from vtprof_analyzer.models.registry import load_spec, parse_config
    from vtprof_analyzer.cost.steps import step_costs
    from vtprof_analyzer.cost.work import Precision, StepWork
    from vtprof_analyzer.devices.roofs import choose_roof

    spec = load_spec(parse_config(resource_model_config))        # DataError names the field at fault
    precision = Precision.of(weights_dtype or spec.dtype, kv_dtype)  # None: data type unknown, bytes unknown
    work = StepWork.of(prefill_tokens=..., prefill_attention_pairs=..., decode_requests=..., count=...)  # absent = 0
    costs = step_costs(spec, work, precision)                    # .encode, .prefill, .decode: PartCost of arrays
    costs.prefill.flops, .flops_visual, .flops_attention, .bytes, .bytes_weights, .bytes_kv_read, .bytes_kv_visual ...
    roofs, roof, notes = choose_roof(hw_name, dtype, recorded_peak, recorded_bandwidth, recorded_source, devices=tp)
    floor = costs.prefill.floor_seconds(roof)                    # array [s]
    parts = split_seconds(costs, roof, step_seconds, encode_seconds)  # cost.times: measured time by part

Then the stages `57_roofline` to `86_phase_bounds` judge steps and add them up, and `vtprof_analyzer.verdict_phases` puts a
phase's verdict into words (`vtprof_analyzer.verdict`: types and thresholds; `verdict_requests`: phases off the device).

Multiply-add is 2 FLOPs; causal attention is counted causal. Biases, norms, rotary embedding, softmax and activation
functions count as bytes (their parameters) and not as FLOPs, as in torch's flop counter.
"""
