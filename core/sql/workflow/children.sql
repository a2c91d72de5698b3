-- Workflows by name, each with its newest version.
select w.name, w.workflow_id, v.version_id
from longshore.workflows w
cross join lateral (
    select k.version_id from longshore.workflow_versions k where k.workflow_id = w.workflow_id order by k.version desc limit 1) v
where w.name = any ($1::text[])
