-- Where frames of a run are: the iterations around each and its own, the outermost first, such as each[3] > retry[2]. A frame that stands for a block
-- and is no body itself ends with the block's id alone.
--   $1 shard   $2 run id   $3 frames
select w.frame, string_agg(n.id || case when f.iteration >= 0 then '[' || f.iteration || ']' else '' end, ' > ' order by p.depth) as within
from longshore.workflow_runs r
cross join lateral unnest($3::int[]) as u(frame)
cross join lateral (
    select x.frame, x.path from longshore.frames x where x.shard = $1 and x.run_id = $2 and x.frame = u.frame offset 0
) w
cross join lateral unnest(w.path || w.frame) with ordinality as p(frame, depth)
cross join lateral (
    select x.frame, x.node, x.iteration from longshore.frames x where x.shard = $1 and x.run_id = $2 and x.frame = p.frame offset 0
) f
join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = f.node
where r.shard = $1 and r.run_id = $2 and (f.iteration >= 0 or f.frame = w.frame)
group by w.frame
