-- $1 shard, then what settle_begin returned.
select longshore.settle($1, $2, $3, $4, $5)
