-- The iterations of blocks: $1 shard, $2 run, $3 frames of the blocks, $4 chunks, $5 the first of their frames, $6 how many, $7 those that begin later.
insert into longshore.frame_chunks (shard, run_id, frame, chunk, first, count, items)
select $1, $2, t.frame, t.chunk, t.first, t.count, t.items::jsonb
from unnest($3::int[], $4::int[], $5::int[], $6::int[], $7::text[]) t (frame, chunk, first, count, items)
