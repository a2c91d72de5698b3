select version_id, version, content_hash
from longshore.workflow_versions
where workflow_id = $1
order by version desc
limit 1
