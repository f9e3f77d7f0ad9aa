-- One row: one resource and the machine whose clock its times are from.
-- resource_id        row of `resources`
-- host_name          name of the machine; where none is recorded the process stands for one with a clock of its own
-- named              whether it was recorded
CREATE TABLE hosts AS
WITH known AS (
    -- Of one process some resources may name it and others not.
    SELECT resource_id, service_instance_id,
           max(nullif(host_name, '')) OVER (PARTITION BY coalesce(service_instance_id, resource_id::VARCHAR)) AS host_name
    FROM resources
)
SELECT resource_id, coalesce(host_name, service_instance_id, 'resource ' || resource_id) AS host_name,
       host_name IS NOT NULL AS named
FROM known;
