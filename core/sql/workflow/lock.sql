-- Two publishes of one workflow take turns here.
select workflow_id from longshore.workflows where name = $1 for update
