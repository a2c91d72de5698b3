-- The version of that number, or the newest if $2 is null.
select v.version_id
from longshore.workflow_versions v
where v.workflow_id = (select w.workflow_id from longshore.workflows w where w.name = $1) and ($2::int is null or v.version = $2)
order by v.version desc
limit 1
