-- The months that attempts will be written to soon; the fleet's upkeep goes on from there.
select longshore.make_partitions(now() + interval '3 months')
