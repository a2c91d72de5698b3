-- Workers without a heartbeat for 30 s: stopped hard, or cut off. Their steps run elsewhere.
with silent as materialized (
    select format('worker %s (host %s, pid %s): last heard of %s', w.name, w.host, w.pid, w.heartbeat_at) as example
    from longshore.workers w
    where w.heartbeat_at < now() - interval '30 s'
)
select (select count(*) from silent) as found, array(select s.example from silent s order by s.example limit 5) as examples
