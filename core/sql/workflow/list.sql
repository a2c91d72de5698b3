-- Every workflow with its newest version, by name.
select w.name as workflow, v.version, v.published_at,
    (select count(*) from longshore.workflow_nodes n where n.version_id = v.version_id) as nodes
from longshore.workflows w
cross join lateral (
    select k.version_id, k.version, k.published_at
    from longshore.workflow_versions k
    where k.workflow_id = w.workflow_id
    order by k.version desc
    limit 1) v
order by w.name
