-- Nothing: the older form makes the same partitions, and waits longer for them.
select
