-- $1 version, then one array element an edge.
insert into longshore.workflow_edges (version_id, edge, from_node, to_node, on_outcome, condition)
select $1, t.edge, t.from_node, t.to_node, t.on_outcome, t.condition
from unnest($2::int[], $3::int[], $4::int[], $5::text[], $6::text[]) t(edge, from_node, to_node, on_outcome, condition)
