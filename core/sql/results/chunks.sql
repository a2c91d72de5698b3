-- $1 shard, $2 run ids, $3 frames of blocks, $4 chunks.
select t.run_id, t.frame, t.chunk,
    (select c.items::text from longshore.frame_chunks c where c.shard = $1 and c.run_id = t.run_id and c.frame = t.frame and c.chunk = t.chunk)
from unnest($2::uuid[], $3::int[], $4::int[]) t (run_id, frame, chunk)
